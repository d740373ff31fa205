// The command line: verbs, and a sub-command for each system, made from the registry.
#pragma once

#include <string>
#include <vector>

namespace einkorn::app {

// Exit codes that users may rely on.
enum ExitCode { done = 0, check_failed = 1, bad_input = 2, internal_error = 3, interrupted = 130 };

// Runs the command with the words after its name; returns the exit code. Results go to stdout,
// everything else to stderr. Never throws.
int run_command(const std::vector<std::string>& arguments);

// One option of a verb or of the jobs' common ones, for help, completion and the man page.
struct VerbOption {
  std::string name;   // without the hyphens
  std::string value;  // "FILE", "cpu|cuda"; empty for a flag
  std::string help;
};

struct Verb {
  std::string name;
  std::string summary;
  std::string argument;  // "[SYSTEM...]", "SYSTEM", or empty
  std::vector<VerbOption> options;
};

// The verbs in the order of help. Jobs of systems come from the registry.
const std::vector<Verb>& verbs();

// Options that every job takes beside its own.
const std::vector<VerbOption>& job_options();

}  // namespace einkorn::app
