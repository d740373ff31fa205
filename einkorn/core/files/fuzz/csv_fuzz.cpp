#include "einkorn/core/files/csv.h"
#include "einkorn/core/files/fuzz/fuzz_internal.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace einkorn;
  const auto table = parsed_or_nothing([&] { return parse_csv(as_string(data, size), "fuzz"); });
  if (!table) return 0;
  for (const std::string& column : table->columns) {
    const auto values = parsed_or_nothing([&] { return table->numbers(column, true); });
    if (values) must_hold(values->size() == table->rows.size());
  }
  const CsvTable again = parse_csv(format_csv(*table), "fuzz");
  must_hold(again.columns == table->columns && again.rows == table->rows);
  return 0;
}
