// Completion scripts, written from the registry: static word lists, so that completing needs no
// run of the command.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "app/command.h"
#include "app/verbs.h"
#include "einkorn/core/error.h"
#include "einkorn/core/text.h"

namespace einkorn::app {
namespace {

std::vector<std::string> system_names() {
  std::vector<std::string> names;
  for (const System& system : systems()) names.push_back(system.name);
  return names;
}

std::vector<std::string> job_names(const System& system) {
  std::vector<std::string> names;
  for (const Job& job : system.jobs) names.push_back(job.name);
  return names;
}

std::vector<std::string> option_words(const std::vector<VerbOption>& options) {
  std::vector<std::string> words = {"--help"};
  for (const VerbOption& option : options) words.push_back("--" + option.name);
  return words;
}

std::vector<std::string> option_words(const Job& job) {
  std::vector<std::string> words = option_words(job_options());
  for (const Option& option : job.options) words.push_back("--" + option.name);
  return words;
}

bool takes_system(const Verb& verb) {
  return verb.argument.find("SYSTEM") != std::string::npos;
}

std::string words_of(const Verb& verb) {
  std::vector<std::string> words = option_words(verb.options);
  if (takes_system(verb)) {
    for (const std::string& name : system_names()) words.push_back(name);
  }
  if (verb.name == "completion") words.insert(words.end(), {"bash", "zsh", "fish"});
  return fmt::format("{}", fmt::join(words, " "));
}

// Values of options with a fixed set of them, as cases "system job --option".
template <typename Emit>
void for_each_choice(Emit emit) {
  for (const System& system : systems()) {
    for (const Job& job : system.jobs) {
      for (const Option& option : job.options) {
        if (!option.choices.empty()) emit(system, job, option);
      }
    }
  }
}

// The same function serves bash and, through bashcompinit, zsh.
std::string bash_script() {
  std::string top;
  for (const Verb& verb : verbs()) top += verb.name + " ";
  top += fmt::format("{}", fmt::join(system_names(), " "));
  std::string script = "# Completion of einkorn; written by `einkorn completion`.\n_einkorn() {\n";
  script +=
      "  local current=\"${COMP_WORDS[COMP_CWORD]}\" previous=\"${COMP_WORDS[COMP_CWORD-1]}\"\n";
  script += "  local words=\"\" first=\"${COMP_WORDS[1]}\" second=\"${COMP_WORDS[2]}\"\n";
  script += "  if [ \"$COMP_CWORD\" -le 1 ]; then\n";
  script += fmt::format("    words=\"{}\"\n", top);
  script += "  else\n    case \"$first $second $previous\" in\n";
  for_each_choice([&](const System& system, const Job& job, const Option& option) {
    script += fmt::format("      \"{} {} --{}\") words=\"{}\" ;;\n", system.name, job.name,
                          option.name, fmt::join(option.choices, " "));
  });
  script += "      *)\n        case \"$first\" in\n";
  for (const Verb& verb : verbs()) {
    script += fmt::format("          {}) words=\"{}\" ;;\n", verb.name, words_of(verb));
  }
  for (const System& system : systems()) {
    script +=
        fmt::format("          {})\n            if [ \"$COMP_CWORD\" -le 2 ]; then\n", system.name);
    script += fmt::format("              words=\"{}\"\n", fmt::join(job_names(system), " "));
    script += "            else\n              case \"$second\" in\n";
    for (const Job& job : system.jobs) {
      script += fmt::format("                {}) words=\"{}\" ;;\n", job.name,
                            fmt::join(option_words(job), " "));
    }
    script += "              esac\n            fi ;;\n";
  }
  script += "        esac ;;\n    esac\n  fi\n";
  script += "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n";
  // Files where no word fits: option values and positional arguments.
  script += "  [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- \"$current\"))\n}\n";
  return script;
}

std::string zsh_script() {
  return "#compdef einkorn\nautoload -U +X bashcompinit && bashcompinit\n" + bash_script() +
         "complete -F _einkorn einkorn\n";
}

// Inside single quotes fish knows two escapes.
std::string quoted(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '\'' || c == '\\') safe += '\\';
    safe += c;
  }
  return "'" + safe + "'";
}

std::string fish_option(const std::string& condition, const VerbOption& option) {
  return fmt::format("complete -c einkorn -n {} -l {}{} -d {}\n", quoted(condition), option.name,
                     option.value.empty() ? "" : " -r", quoted(option.help));
}

std::string fish_script() {
  std::string script = "# Completion of einkorn; written by `einkorn completion`.\n";
  for (const Verb& verb : verbs()) {
    script += fmt::format("complete -c einkorn -n __fish_use_subcommand -f -a {} -d {}\n",
                          verb.name, quoted(verb.summary));
    const std::string seen = "__fish_seen_subcommand_from " + verb.name;
    for (const VerbOption& option : verb.options) script += fish_option(seen, option);
    if (takes_system(verb)) {
      script += fmt::format("complete -c einkorn -n {} -f -a {}\n", quoted(seen),
                            quoted(fmt::format("{}", fmt::join(system_names(), " "))));
    }
    if (verb.name == "completion") {
      script += fmt::format("complete -c einkorn -n {} -f -a 'bash zsh fish'\n", quoted(seen));
    }
  }
  for (const System& system : systems()) {
    script += fmt::format("complete -c einkorn -n __fish_use_subcommand -f -a {} -d {}\n",
                          system.name, quoted(system.summary));
    const std::string names = fmt::format("{}", fmt::join(job_names(system), " "));
    const std::string in_system = "__fish_seen_subcommand_from " + system.name;
    for (const Job& job : system.jobs) {
      script += fmt::format("complete -c einkorn -n {} -f -a {} -d {}\n",
                            quoted(in_system + "; and not __fish_seen_subcommand_from " + names),
                            job.name, quoted(job.summary));
      const std::string in_job = in_system + "; and __fish_seen_subcommand_from " + job.name;
      for (const VerbOption& option : job_options()) script += fish_option(in_job, option);
      for (const Option& option : job.options) {
        std::string line = fish_option(
            in_job,
            {option.name, option.type == OptionType::flag ? "" : "VALUE", option.description});
        if (!option.choices.empty()) {
          line.pop_back();
          line +=
              fmt::format(" -f -a {}\n", quoted(fmt::format("{}", fmt::join(option.choices, " "))));
        }
        script += line;
      }
    }
  }
  return script;
}

}  // namespace

int print_completion(const std::string& shell) {
  const std::vector<std::string> shells = {"bash", "zsh", "fish"};
  require(std::find(shells.begin(), shells.end(), shell) != shells.end(),
          "completion: expected one of {}, got '{}'{}", fmt::join(shells, ", "), shell,
          hint(shell, shells));
  if (shell == "bash") fmt::print("{}complete -F _einkorn einkorn\n", bash_script());
  if (shell == "zsh") fmt::print("{}", zsh_script());
  if (shell == "fish") fmt::print("{}", fish_script());
  return done;
}

}  // namespace einkorn::app
