#include "einkorn/core/error.h"

namespace einkorn {

BadFile::BadFile(const std::string& path, const std::string& place, const std::string& problem)
    : std::runtime_error(place.empty() ? fmt::format("{}: {}", path, problem)
                                       : fmt::format("{}: {}: {}", path, place, problem)),
      path_(path),
      place_(place) {}

}  // namespace einkorn
