// The report: one page without scripts or anything to fetch, for screens of any width and for
// paper.
#include <fmt/format.h>

#include <cmath>
#include <ctime>

#include "app/outcome.h"
#include "app/terminal.h"
#include "einkorn/core/machine.h"

namespace einkorn::app {
namespace {

constexpr const char* style = R"(
:root { color-scheme: light dark; --ink: #1d1f21; --paper: #ffffff; --faint: #66707a; --line: #d9dde1;
        --good: #0a7a3d; --bad: #b3261e; --card: #f6f7f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #16181a; --faint: #9aa4ae; --line: #34393e; --good: #5cc98a;
          --bad: #ff8a80; --card: #1e2124; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
       background: var(--paper); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .3rem 0; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .3rem; border-top: 1px solid var(--line); padding-top: 1.4rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .4rem 0; }
a { color: inherit; }
.faint { color: var(--faint); }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .35rem .7rem .35rem 0; text-align: left; vertical-align: top;
         border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.pass { color: var(--good); font-weight: 700; }
.fail { color: var(--bad); font-weight: 700; }
.note { background: var(--card); border-left: 3px solid var(--line); padding: .5rem .8rem; margin: .6rem 0; }
table.summary td:first-child { white-space: nowrap; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.plots figure { margin: 0; }
.plots svg { width: 100%; max-width: 44rem; height: auto; color: var(--ink); }
@media (max-width: 40rem) {
  table.cards thead { display: none; }
  table.cards tr { display: block; border-bottom: 1px solid var(--line); padding: .6rem 0; }
  table.cards td { display: block; border: 0; padding: .1rem 0; text-align: left; white-space: normal; }
  table.cards td[data-name]::before { content: attr(data-name) ": "; color: var(--faint); }
}
@media print {
  :root { --ink: #000; --paper: #fff; --faint: #444; --line: #bbb; --good: #060; --bad: #900; --card: #fff; }
  h2 { break-after: avoid; } figure, tr { break-inside: avoid; } .scroll { overflow: visible; }
}
)";

std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      default:
        safe += c;
    }
  }
  return safe;
}

std::string verdict(bool pass) {
  return pass ? "<span class=\"pass\">PASS</span>" : "<span class=\"fail\">FAIL</span>";
}

std::string relation_mark(Relation relation) {
  switch (relation) {
    case Relation::less:
      return "&lt;";
    case Relation::at_most:
      return "&le;";
    case Relation::greater:
      return "&gt;";
    case Relation::at_least:
      return "&ge;";
    case Relation::equal:
      break;
  }
  return "=";
}

std::string expectation(const Check& check) {
  std::string words = relation_mark(check.relation) + " " + readable(check.expected);
  if (check.tolerance > 0) words += " &plusmn; " + readable(check.tolerance);
  return words + " " + escaped(check.unit);
}

std::string head(const std::string& title) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n",
      escaped(title), style);
}

std::string when_and_where() {
  const std::time_t now = std::time(nullptr);
  std::tm parts = {};
  gmtime_r(&now, &parts);
  char date[32];
  std::strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", &parts);
  return fmt::format("<p class=\"faint\">einkorn {}, {}, {}</p>\n", EINKORN_VERSION, date,
                     escaped(ceilings(Device::cpu).processor));
}

std::string html(const Table& table) {
  std::string text;
  if (!table.title.empty()) text += fmt::format("<h3>{}</h3>\n", escaped(table.title));
  text += "<div class=\"scroll\"><table><thead><tr>";
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    const bool numbers =
        !table.rows.empty() && !std::holds_alternative<std::string>(table.rows.front()[c]);
    text +=
        fmt::format("<th{}>{}</th>", numbers ? " class=\"number\"" : "", escaped(table.columns[c]));
  }
  text += "</tr></thead><tbody>\n";
  for (const auto& row : table.rows) {
    text += "<tr>";
    for (const Cell& cell : row) {
      const bool number = !std::holds_alternative<std::string>(cell);
      text +=
          fmt::format("<td{}>{}</td>", number ? " class=\"number\"" : "", escaped(readable(cell)));
    }
    text += "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

std::string html(const std::vector<Plot>& plots) {
  std::string figures;
  for (const Plot& plot : plots) {
    const std::string image = svg(plot);
    if (image.empty()) continue;
    figures += fmt::format("<figure role=\"img\" aria-label=\"{}\">{}</figure>\n",
                           escaped(plot.title), image);
  }
  if (!figures.empty()) return "<div class=\"plots\">\n" + figures + "</div>\n";
  return plots.empty() ? ""
                       : "<p class=\"note\">The plots need gnuplot, which was not found.</p>\n";
}

std::string html(const std::vector<std::string>& notes) {
  std::string text;
  for (const std::string& note : notes)
    text += fmt::format("<p class=\"note\">{}</p>\n", escaped(note));
  return text;
}

std::string checks_table(const std::vector<Check>& checks) {
  std::string text =
      "<table class=\"cards\"><thead><tr><th>figure</th><th class=\"number\">measured</th>"
      "<th class=\"number\">expected</th>"
      "<th></th></tr></thead><tbody>\n";
  for (const Check& check : checks) {
    text += fmt::format(
        "<tr><td>{}</td><td class=\"number\" data-name=\"measured\">{} {}</td>"
        "<td class=\"number\" data-name=\"expected\">{}</td><td>{}</td></tr>\n",
        escaped(check.name), readable(check.measured), escaped(check.unit), expectation(check),
        verdict(check.pass()));
  }
  return text + "</tbody></table>\n";
}

// The check that a summary line shows: one that failed, else the first.
const Check* telling(const Evidence& evidence) {
  for (const Check& check : evidence.checks) {
    if (!check.pass()) return &check;
  }
  return evidence.checks.empty() ? nullptr : &evidence.checks.front();
}

std::string summary(const std::vector<Outcome>& outcomes) {
  std::string text =
      "<table class=\"summary cards\"><thead><tr><th>system</th><th>claim</th><th>measured</th>"
      "<th>expected</th><th>verdict</th></tr></thead><tbody>\n";
  for (const Outcome& outcome : outcomes) {
    const Check* check = telling(outcome.evidence);
    text += fmt::format(
        "<tr><td><a href=\"#{0}\"><strong>{0}</strong></a></td><td>{1}</td>"
        "<td data-name=\"measured\">{2}</td><td data-name=\"expected\">{3}</td><td>{4}</td></tr>\n",
        escaped(outcome.system->name), escaped(outcome.system->reproduction.claim),
        check == nullptr
            ? "-"
            : fmt::format("{} {}<br><span class=\"faint\">{}</span>", readable(check->measured),
                          escaped(check->unit), escaped(check->name)),
        check == nullptr ? "-" : expectation(*check), verdict(outcome.pass()));
  }
  return text + "</tbody></table>\n";
}

std::string section(const Outcome& outcome) {
  const System& system = *outcome.system;
  std::string text = fmt::format("<h2 id=\"{0}\">{0} {1}</h2>\n<p>{2}</p>\n", escaped(system.name),
                                 verdict(outcome.pass()), escaped(system.reproduction.claim));
  text +=
      fmt::format("<p class=\"faint\">{}, &ldquo;{}&rdquo;, {}{}. Data: {}. {:.1f} s on {}.</p>\n",
                  escaped(system.paper.authors), escaped(system.paper.title), system.paper.year,
                  system.paper.arxiv.empty() ? "" : ", arXiv " + escaped(system.paper.arxiv),
                  escaped(system.reproduction.data), outcome.seconds, to_string(outcome.device));
  if (!outcome.error.empty()) {
    text +=
        fmt::format("<p class=\"note\">Could not run to its end: {}</p>\n", escaped(outcome.error));
  }
  if (!outcome.evidence.checks.empty()) text += checks_table(outcome.evidence.checks);
  text += html(outcome.evidence.notes) + html(outcome.evidence.plots);
  for (const Table& table : outcome.evidence.tables) text += html(table);
  return text;
}

}  // namespace

std::string html_page(const std::vector<Outcome>& outcomes, bool full) {
  std::size_t held = 0;
  for (const Outcome& outcome : outcomes) held += outcome.pass() ? 1 : 0;
  std::string page = head("einkorn: do the claims hold?");
  page += fmt::format("<h1>{} of {} claims hold on this machine</h1>\n", held, outcomes.size());
  page += when_and_where();
  page += fmt::format(
      "<p>Each system of einkorn rebuilds a published method. This page is what "
      "<code>einkorn reproduce{}</code> measured when it put the papers' claims to "
      "the test here.</p>\n",
      full ? " --full" : "");
  page += summary(outcomes);
  for (const Outcome& outcome : outcomes) page += section(outcome);
  return page + "</body>\n</html>\n";
}

std::string html_page(const std::string& system, const std::string& job, const Report& report) {
  std::string page = head(fmt::format("einkorn {} {}", system, job));
  page += fmt::format("<h1>{} {}</h1>\n", escaped(system), escaped(job)) + when_and_where();
  if (!report.metrics.empty()) {
    page += "<div class=\"scroll\"><table><tbody>\n";
    for (const Metric& metric : report.metrics) {
      page += fmt::format("<tr><th>{}</th><td>{} {}</td></tr>\n", escaped(metric.name),
                          escaped(readable(metric.value)), escaped(metric.unit));
    }
    page += "</tbody></table></div>\n";
  }
  page += html(report.notes) + html(report.plots);
  for (const Table& table : report.tables) page += html(table);
  return page + "</body>\n</html>\n";
}

}  // namespace einkorn::app
