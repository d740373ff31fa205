#include "app/command.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <thread>

#include "app/terminal.h"
#include "app/verbs.h"
#include "einkorn/core/error.h"
#include "einkorn/core/progress.h"
#include "einkorn/core/text.h"

namespace einkorn::app {
namespace {

// Everything the command line can say, filled in by the parser.
struct CommandLine {
  bool json = false;
  bool full = false;
  bool quiet = false;
  bool force = false;
  std::vector<std::string> systems;
  std::string system;
  std::string shell;
  std::string help_on;
  std::string device;
  std::string html;
  std::string only;
  double seconds = BenchRequest().seconds;
  int threads = 0;
  std::map<std::string, std::string> job_options;
  std::map<std::string, bool> job_flags;
};

extern "C" void on_interrupt(int) {
  // The first Ctrl-C asks politely; a second one ends the process as usual.
  request_interrupt();
  std::signal(SIGINT, SIG_DFL);
}

std::string short_help() {
  return "einkorn: kernels in every sense that machine learning gives the word\n"
         "\n"
         "  einkorn list                     all systems\n"
         "  einkorn show step-law            what one system can do\n"
         "  einkorn reproduce                do the papers' claims hold on this machine?\n"
         "  einkorn step-law suggest --params 1e9 --tokens 1e11\n"
         "\n"
         "`einkorn --help` shows all verbs, `einkorn VERB --help` one of them.\n";
}

std::vector<std::string> command_words() {
  std::vector<std::string> words;
  for (const Verb& verb : verbs()) words.push_back(verb.name);
  for (const System& system : systems()) words.push_back(system.name);
  return words;
}

std::string option_help(const Option& option) {
  std::string words = option.description;
  const bool says_itself = option.type == OptionType::flag || option.type == OptionType::text ||
                           option.type == OptionType::input_file ||
                           option.type == OptionType::output_file;
  if (!says_itself) words += fmt::format(" [{}]", option.admissible());
  if (!option.unit_name.empty()) words += fmt::format(" ({})", option.unit_name);
  if (option.default_value && option.type != OptionType::flag) {
    words += fmt::format(" (default {})", to_string(*option.default_value));
  }
  if (option.is_required) words += " (required)";
  return words;
}

void add_job_option(CLI::App& command, const Option& option, CommandLine& line) {
  if (option.type == OptionType::flag) {
    command.add_flag("--" + option.name, line.job_flags[option.name], option_help(option));
    return;
  }
  std::string names = "--" + option.name;
  if (option.name.size() == 1) names = "-" + option.name + "," + names;
  if (option.is_positional) names = option.name + "," + names;
  command.add_option(names, line.job_options[option.name], option_help(option))
      ->type_name("")
      ->allow_extra_args(false);
}

void add_json(CLI::App& command, CommandLine& line) {
  command.add_flag("--json", line.json, "print one JSON document instead of text");
}

void add_quiet(CLI::App& command, CommandLine& line) {
  command.add_flag("-q,--quiet", line.quiet, "no progress");
}

void add_threads(CLI::App& command, CommandLine& line) {
  command.add_option("--threads", line.threads, "CPU threads (default: all cores)")->type_name("N");
}

void add_verbs(CLI::App& app, CommandLine& line) {
  for (const Verb& verb : verbs()) {
    CLI::App& command = *app.add_subcommand(verb.name, verb.summary);
    command.group("Verbs");
    if (verb.name == "list" || verb.name == "info") add_json(command, line);
    if (verb.name == "show") {
      add_json(command, line);
      command.add_option("system", line.system, "its name")->required()->type_name("");
    }
    if (verb.name == "reproduce" || verb.name == "bench") {
      add_json(command, line);
      add_quiet(command, line);
      add_threads(command, line);
      command.add_option("system", line.systems, "which systems (default: all)")->type_name("");
      command.add_option("--device", line.device, "cpu or cuda")->type_name("DEVICE");
    }
    if (verb.name == "reproduce") {
      command.add_flag("--full", line.full, "the whole demonstration instead of the short one");
      command.add_option("--html", line.html, "also write a report page")->type_name("FILE");
      command.add_flag("-f,--force", line.force, "replace an existing file");
    }
    if (verb.name == "bench") {
      command.add_option("--case", line.only, "only cases whose name contains this")
          ->type_name("TEXT");
      command.add_option("--seconds", line.seconds, "time for each case")->type_name("S");
    }
    if (verb.name == "completion") {
      command.add_option("shell", line.shell, "bash, zsh or fish")->required()->type_name("");
    }
    if (verb.name == "help") {
      command.add_option("word", line.help_on, "a verb or a system")->type_name("");
    }
  }
}

void add_systems(CLI::App& app, CommandLine& line) {
  for (const System& system : systems()) {
    CLI::App& command = *app.add_subcommand(system.name, system.summary);
    command.group("Systems (" + to_string(system.wing) + ")");
    for (const Job& job : system.jobs) {
      CLI::App& sub = *command.add_subcommand(job.name, job.summary);
      add_json(sub, line);
      add_quiet(sub, line);
      add_threads(sub, line);
      sub.add_option("--html", line.html, "also write a report page")->type_name("FILE");
      sub.add_flag("-f,--force", line.force, "replace existing files");
      if (!job.examples.empty()) {
        std::string footer = "Examples:";
        for (const std::string& example : job.examples) footer += "\n  einkorn " + example;
        sub.footer(footer);
      }
    }
  }
}

// A job's own options are added only to the job that was named: names may repeat between jobs.
void add_named_job(CLI::App& app, const std::vector<std::string>& arguments, CommandLine& line) {
  if (arguments.size() < 2) return;
  for (const System& system : systems()) {
    if (system.name != arguments[0]) continue;
    for (const Job& job : system.jobs) {
      if (job.name != arguments[1]) continue;
      CLI::App& command = *app.get_subcommand(system.name)->get_subcommand(job.name);
      for (const Option& option : job.options) add_job_option(command, option, line);
    }
  }
}

// Words that the parser could not place: a mistyped verb, system, job or option.
[[noreturn]] void refuse_extras(const CLI::App& app, const std::vector<std::string>& extras) {
  const CLI::App* innermost = &app;
  while (!innermost->get_subcommands().empty()) innermost = innermost->get_subcommands().front();
  const std::string& word = extras.front();
  if (word.rfind("-", 0) == 0) {
    std::vector<std::string> names;
    for (const CLI::Option* option : innermost->get_options()) {
      for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    }
    const std::string bare = word.substr(0, word.find('='));
    throw InvalidArgument(fmt::format("unknown option {}{}", bare, hint(bare, names)));
  }
  if (innermost == &app) {
    throw InvalidArgument(
        fmt::format("no verb or system '{}'{}", word, hint(word, command_words())));
  }
  std::vector<std::string> jobs;
  for (const CLI::App* sub : innermost->get_subcommands([](const CLI::App*) { return true; })) {
    jobs.push_back(sub->get_name());
  }
  if (!jobs.empty()) {
    throw InvalidArgument(
        fmt::format("no job '{}' in {}{}", word, innermost->get_name(), hint(word, jobs)));
  }
  throw InvalidArgument(fmt::format("unexpected argument '{}'", word));
}

std::optional<Device> device_named(const std::string& name) {
  if (name.empty()) return std::nullopt;
  const Device device = parse_device(name);
  require_available(device);
  return device;
}

std::optional<std::string> file_named(const std::string& name) {
  if (name.empty()) return std::nullopt;
  return name;
}

int run_named_job(const System& system, const CLI::App& command, const CommandLine& line) {
  if (command.get_subcommands().empty()) return show_system(system.name, false);
  const Job& job = find_job(system, command.get_subcommands().front()->get_name());
  JobRequest request{system.name,          job.name, {}, line.json, line.quiet, line.force,
                     file_named(line.html)};
  const CLI::App& sub = *command.get_subcommands().front();
  for (const Option& option : job.options) {
    if (sub.count("--" + option.name) == 0) continue;
    if (option.type == OptionType::flag) {
      request.options[option.name] = line.job_flags.at(option.name);
    } else {
      request.options[option.name] = option.parse(line.job_options.at(option.name));
    }
  }
  return run_job(request);
}

int run_verb(const std::string& verb, CLI::App& app, const CommandLine& line) {
  if (verb == "list") return list_systems(line.json);
  if (verb == "show") return show_system(line.system, line.json);
  if (verb == "info") return show_info(line.json);
  if (verb == "completion") return print_completion(line.shell);
  if (verb == "man") return print_man_page();
  if (verb == "help") {
    if (line.help_on.empty()) {
      fmt::print("{}", app.help());
      return done;
    }
    const auto words = command_words();
    require(std::find(words.begin(), words.end(), line.help_on) != words.end(),
            "no verb or system '{}'{}", line.help_on, hint(line.help_on, words));
    fmt::print("{}", app.get_subcommand(line.help_on)->help());
    return done;
  }
  if (verb == "reproduce") {
    return reproduce({line.systems, device_named(line.device).value_or(Device::cpu), line.full,
                      line.json, line.quiet, line.force, file_named(line.html)});
  }
  require(line.seconds > 0, "--seconds: expected a number > 0, got {}", line.seconds);
  return bench(
      {line.systems, device_named(line.device), line.only, line.seconds, line.json, line.quiet});
}

int parse_and_run(const std::vector<std::string>& arguments) {
  if (arguments.empty()) {
    fmt::print("{}", short_help());
    return done;
  }
  CLI::App app("einkorn: kernels in every sense that machine learning gives the word", "einkorn");
  app.set_version_flag("--version", "einkorn " EINKORN_VERSION);
  app.set_help_all_flag("--help-all", "help on every verb and job");
  app.require_subcommand(0, 1);
  CommandLine line;
  add_verbs(app, line);
  add_systems(app, line);
  add_named_job(app, arguments, line);
  for (CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    command->allow_extras();
    for (CLI::App* job : command->get_subcommands([](const CLI::App*) { return true; })) {
      job->allow_extras();
    }
  }
  app.allow_extras();
  try {
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    app.parse(reversed);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    throw InvalidArgument(error.what());
  }
  const std::vector<std::string> extras = app.remaining(true);
  if (!extras.empty()) refuse_extras(app, extras);

  require(line.threads >= 0, "--threads: expected a whole number >= 1, got {}", line.threads);
  if (line.threads > 0) torch::set_num_threads(line.threads);
  const CLI::App& command = *app.get_subcommands().front();
  for (const System& system : systems()) {
    if (system.name == command.get_name()) return run_named_job(system, command, line);
  }
  return run_verb(command.get_name(), app, line);
}

int report_error(const std::string& what, int code) {
  fmt::print(stderr, "{} {}\n", styled("einkorn:", Style::bad, stderr), what);
  return code;
}

// The first line is for users; torch appends a stack trace to its own.
std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

}  // namespace

int run_command(const std::vector<std::string>& arguments) {
  std::signal(SIGINT, on_interrupt);
  try {
    return parse_and_run(arguments);
  } catch (const InvalidArgument& error) {
    return report_error(error.what(), bad_input);
  } catch (const BadFile& error) {
    return report_error(error.what(), bad_input);
  } catch (const Interrupted&) {
    return report_error("interrupted; nothing half-written was left behind", interrupted);
  } catch (const std::bad_alloc&) {
    return report_error("not enough memory for this input", internal_error);
  } catch (const std::exception& error) {
    return report_error("internal error: " + first_line(error.what()), internal_error);
  } catch (...) {
    return report_error("internal error of an unknown kind", internal_error);
  }
}

const std::vector<Verb>& verbs() {
  static const VerbOption json = {"json", "", "print one JSON document instead of text"};
  static const VerbOption quiet = {"quiet", "", "no progress"};
  static const VerbOption threads = {"threads", "N", "CPU threads"};
  static const VerbOption device = {"device", "cpu|cuda", "where to run"};
  static const std::vector<Verb> all = {
      {"list", "all systems, a line each", "", {json}},
      {"show", "what one system is and can do", "SYSTEM", {json}},
      {"info", "this machine, and which kernels run on it", "", {json}},
      {"reproduce",
       "run the papers' claims on this machine and say whether they hold",
       "[SYSTEM...]",
       {json,
        quiet,
        threads,
        device,
        {"full", "", "the whole demonstration instead of the short one"},
        {"html", "FILE", "also write a report page"},
        {"force", "", "replace an existing file"}}},
      {"bench",
       "time ours against the strongest peer and against this machine's ceilings",
       "[SYSTEM...]",
       {json,
        quiet,
        threads,
        device,
        {"case", "TEXT", "only cases whose name contains this"},
        {"seconds", "S", "time for each case"}}},
      {"completion", "completion script for a shell", "bash|zsh|fish", {}},
      {"man", "the man page, in roff", "", {}},
      {"help", "help on a verb or a system", "[WORD]", {}},
  };
  return all;
}

const std::vector<VerbOption>& job_options() {
  static const std::vector<VerbOption> all = {
      {"json", "", "print one JSON document instead of text"},
      {"quiet", "", "no progress"},
      {"threads", "N", "CPU threads"},
      {"html", "FILE", "also write a report page"},
      {"force", "", "replace existing files"}};
  return all;
}

}  // namespace einkorn::app
