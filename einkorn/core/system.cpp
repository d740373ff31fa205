#include "einkorn/core/system.h"

namespace einkorn {

std::string to_string(Wing wing) {
  switch (wing) {
    case Wing::compute:
      return "compute";
    case Wing::convolution:
      return "convolution";
    case Wing::similarity:
      return "similarity";
    case Wing::scaling:
      return "scaling";
    case Wing::search:
      return "search";
    case Wing::profile:
      return "profile";
    case Wing::models:
      return "models";
    case Wing::assess:
      break;
  }
  return "assess";
}

}  // namespace einkorn
