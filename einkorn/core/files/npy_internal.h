// The member of an .npz file as an array.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "einkorn/core/files/npy.h"

namespace einkorn {

// As parse_npy, with messages that name the member ("entry 'x'") before the place in it.
NpyArray parse_npy_member(std::span<const std::byte> content, const std::string& path,
                          const std::string& member);

}  // namespace einkorn
