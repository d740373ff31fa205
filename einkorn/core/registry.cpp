#include "einkorn/core/registry.h"

#include "einkorn/core/error.h"
#include "einkorn/core/text.h"

namespace einkorn {
namespace {

template <typename Named>
const Named& find(const std::vector<Named>& all, const std::string& kind, const std::string& name,
                  const std::string& where) {
  std::vector<std::string> names;
  for (const Named& one : all) {
    if (one.name == name) return one;
    names.push_back(one.name);
  }
  throw InvalidArgument(fmt::format("no {} '{}'{}{}", kind, name, where, hint(name, names)));
}

}  // namespace

const System& find_system(const std::string& name) {
  return find(systems(), "system", name, " (`einkorn list` shows all)");
}

std::vector<const System*> find_systems(const std::vector<std::string>& names) {
  std::vector<const System*> found;
  for (const std::string& name : names) found.push_back(&find_system(name));
  if (names.empty()) {
    for (const System& system : systems()) found.push_back(&system);
  }
  return found;
}

const Job& find_job(const System& system, const std::string& name) {
  return find(system.jobs, "job", name,
              fmt::format(" in {} (`einkorn show {}` shows all)", system.name, system.name));
}

}  // namespace einkorn
