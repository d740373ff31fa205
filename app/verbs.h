// What each verb does, once its words are understood. All return an exit code.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "einkorn/core/registry.h"

namespace einkorn::app {

int list_systems(bool json);
int show_system(const std::string& name, bool json);
int show_info(bool json);

struct ReproduceRequest {
  std::vector<std::string> systems;  // empty: all
  Device device = Device::cpu;
  bool full = false;
  bool json = false;
  bool quiet = false;
  bool force = false;
  std::optional<std::string> html;
};
int reproduce(const ReproduceRequest& request);

struct BenchRequest {
  std::vector<std::string> systems;  // empty: all
  std::optional<Device> device;      // empty: every device that is there
  std::string only;                  // cases whose name contains this
  double seconds = 2;                // time for each case
  bool json = false;
  bool quiet = false;
};
int bench(const BenchRequest& request);

struct JobRequest {
  std::string system;
  std::string job;
  std::map<std::string, OptionValue> options;
  bool json = false;
  bool quiet = false;
  bool force = false;
  std::optional<std::string> html;
};
int run_job(const JobRequest& request);

// Prints the completion script of bash, zsh or fish; the man page in roff.
int print_completion(const std::string& shell);
int print_man_page();

}  // namespace einkorn::app
