// The array type of the house is libtorch's at::Tensor. Headers include this file rather than
// torch's umbrella, which takes ten times as long to compile.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>

#include "einkorn/core/device.h"
#include "einkorn/core/files/npy.h"
#include "einkorn/core/options.h"

namespace einkorn {

// Throws InvalidArgument unless the tensor is defined, dense, and on a device that this build
// knows. name is used in the message.
void require_dense(const at::Tensor& tensor, const char* name);

// cpu or cuda; the tensor must have passed require_dense.
Device device_kind(const at::Tensor& tensor);
at::Device to_torch(Device device);

// A tensor that owns a copy of the array's bytes, in native byte order and row-major.
// Throws BadFile for dtypes that torch has no name for.
at::Tensor to_tensor(const NpyArray& array, const std::string& path);

// Reads an .npy file, or the only (else the named) array of an .npz file.
at::Tensor read_tensor(const std::filesystem::path& path, const std::string& name = "");

// Writes an .npy file through a temporary name. bf16 is widened to f32, for which npy has a name.
void write_tensor(const OutputPath& path, const at::Tensor& tensor);

}  // namespace einkorn
