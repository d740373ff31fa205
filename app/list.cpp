#include <fmt/format.h>

#include "app/command.h"
#include "app/json.h"
#include "app/terminal.h"
#include "app/verbs.h"

namespace einkorn::app {

int list_systems(bool json) {
  if (json) {
    Json all = Json::array();
    for (const System& system : systems()) all.push_back(to_json(system));
    print_json(all);
    return done;
  }
  std::vector<std::vector<std::string>> rows;
  for (const System& system : systems()) {
    rows.push_back({to_string(system.wing), system.name, system.summary});
  }
  print_table({"wing", "system", "what it does"}, rows);
  fmt::print("\n`einkorn show SYSTEM` tells more, `einkorn reproduce SYSTEM` tries its claim.\n");
  return done;
}

}  // namespace einkorn::app
