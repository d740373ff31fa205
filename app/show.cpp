#include <fmt/format.h>

#include "app/command.h"
#include "app/json.h"
#include "app/terminal.h"
#include "app/verbs.h"

namespace einkorn::app {

int show_system(const std::string& name, bool json) {
  const System& system = find_system(name);
  if (json) {
    print_json(to_json_in_full(system));
    return done;
  }
  fmt::print("{}  ({})\n{}\n\n", styled(system.name, Style::bold), to_string(system.wing),
             system.summary);
  fmt::print("Paper  {}, \"{}\", {}{}\n", system.paper.authors, system.paper.title,
             system.paper.year, system.paper.arxiv.empty() ? "" : ", arXiv " + system.paper.arxiv);
  fmt::print("Claim  {}\nData   {}\n\n", system.reproduction.claim, system.reproduction.data);
  std::vector<std::vector<std::string>> rows;
  for (const Job& job : system.jobs) rows.push_back({job.name, job.summary});
  print_table({"job", "what it does"}, rows);
  std::vector<std::string> examples;
  for (const Job& job : system.jobs) {
    examples.insert(examples.end(), job.examples.begin(), job.examples.end());
  }
  if (!examples.empty()) fmt::print("\nExamples\n");
  for (const std::string& example : examples) fmt::print("  einkorn {}\n", example);
  fmt::print("\n`einkorn {} JOB --help` lists a job's options.\n", system.name);
  return done;
}

}  // namespace einkorn::app
