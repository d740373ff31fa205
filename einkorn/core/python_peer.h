// Peers that live in Python: a co-process that times its own calls, so that both sides of a
// benchmark take turns in one run.
#pragma once

#include <string>

#include "einkorn/core/system.h"

namespace einkorn {

// Runs `setup` once in a Python process, then `statement` at each call, which returns the seconds
// that it took inside that process. Sets contest.peer, or contest.peer_missing with the reason if
// Python or a package is not there. The interpreter is $EINKORN_PYTHON, else the one this build was
// configured with, else python3.
void set_python_peer(Contest& contest, const std::string& setup, const std::string& statement);

// Runs a script to its end and returns what it printed; its errors go to stderr, and a script that
// fails throws std::runtime_error. For peers that are compared in their results, not in time.
std::string run_python(const std::string& script);

}  // namespace einkorn
