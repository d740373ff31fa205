// All systems of this build. The list is written by CMake as explicit calls.
#pragma once

#include <string>
#include <vector>

#include "einkorn/core/system.h"

namespace einkorn {

// In the order of the wings, then by name.
const std::vector<System>& systems();

// Throws InvalidArgument with the nearest name as a hint.
const System& find_system(const std::string& name);
// The systems named, or all where none is.
std::vector<const System*> find_systems(const std::vector<std::string>& names);

const Job& find_job(const System& system, const std::string& name);

}  // namespace einkorn
