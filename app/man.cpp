// The man page, written from the registry.
#include <fmt/format.h>

#include "app/command.h"
#include "app/verbs.h"

namespace einkorn::app {
namespace {

// Backslashes and leading dots mean something in roff, and a plain hyphen may become a dash.
std::string roff(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '\\') {
      safe += "\\e";
    } else if (c == '-') {
      safe += "\\-";
    } else if ((c == '.' || c == '\'') && (safe.empty() || safe.back() == '\n')) {
      safe += "\\&";
      safe += c;
    } else {
      safe += c;
    }
  }
  return safe;
}

std::string entry(const std::string& term, const std::string& text) {
  return fmt::format(".TP\n{}\n{}\n", term, roff(text));
}

std::string option_term(const std::string& name, const std::string& value) {
  std::string term = "\\fB" + roff("--" + name) + "\\fR";
  if (!value.empty()) term += " \\fI" + roff(value) + "\\fR";
  return term;
}

std::string option_text(const Option& option) {
  std::string text = option.description;
  if (option.type != OptionType::flag) text += " (" + option.admissible();
  if (option.type != OptionType::flag && option.default_value) {
    text += "; default " + to_string(*option.default_value);
  }
  if (option.type != OptionType::flag && option.is_required) text += "; required";
  if (option.type != OptionType::flag) text += ")";
  return text;
}

std::string verb_section(const Verb& verb) {
  std::string text =
      entry(fmt::format("\\fB{}\\fR {}", roff(verb.name), roff(verb.argument)), verb.summary);
  if (verb.options.empty()) return text;
  text += ".RS\n";
  for (const VerbOption& option : verb.options) {
    text += entry(option_term(option.name, option.value), option.help);
  }
  return text + ".RE\n";
}

std::string system_section(const System& system) {
  std::string text = fmt::format(".SS {}\n{}\n", roff(system.name), roff(system.summary));
  for (const Job& job : system.jobs) {
    text += entry(fmt::format("\\fB{} {}\\fR", roff(system.name), roff(job.name)), job.summary);
    text += ".RS\n";
    for (const Option& option : job.options) {
      text += entry(option_term(option.name, option.type == OptionType::flag ? "" : "VALUE"),
                    option_text(option));
    }
    text += ".RE\n";
  }
  return text;
}

}  // namespace

int print_man_page() {
  std::string page =
      fmt::format(".TH EINKORN 1 \"\" \"einkorn {}\" \"User Commands\"\n", EINKORN_VERSION);
  page += ".SH NAME\neinkorn \\- kernels in every sense that machine learning gives the word\n";
  page += ".SH SYNOPSIS\n\\fBeinkorn\\fR \\fIVERB\\fR [\\fIOPTIONS\\fR]\n.br\n";
  page += "\\fBeinkorn\\fR \\fISYSTEM JOB\\fR [\\fIOPTIONS\\fR]\n";
  page += ".SH VERBS\n";
  for (const Verb& verb : verbs()) page += verb_section(verb);
  page += ".SH SYSTEMS\nEvery job also takes these options:\n";
  for (const VerbOption& option : job_options()) {
    page += entry(option_term(option.name, option.value), option.help);
  }
  for (const System& system : systems()) page += system_section(system);
  page += ".SH EXIT STATUS\n";
  page += entry("0", "done; all claims hold");
  page += entry("1", "a claim or a check failed");
  page += entry("2", "bad usage or bad input: one line says what, where and what to do");
  page += entry("3", "an internal error");
  page += entry("130", "interrupted");
  page += ".SH ENVIRONMENT\n";
  page += entry("EINKORN_ISA", "forces the CPU kernels' level: scalar, avx2 or avx512");
  page += entry("EINKORN_VERBOSE", "1 prints a line on stderr for each call that runs a kernel");
  page += entry("EINKORN_HOME", "a folder that holds data/");
  page += entry("EINKORN_PYTHON", "the Python that runs peers of benchmarks");
  page += entry("NO_COLOR", "no colours");
  fmt::print("{}", page);
  return done;
}

}  // namespace einkorn::app
