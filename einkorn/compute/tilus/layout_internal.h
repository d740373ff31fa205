// Reading a layout from the front of a longer text.
#pragma once

#include <string_view>

#include "einkorn/compute/tilus/layout.h"

namespace einkorn::tilus {

// Takes a layout off the front of the text. Throws InvalidArgument with what was expected.
Layout take_layout(std::string_view& text);

}  // namespace einkorn::tilus
