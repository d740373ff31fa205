#include "einkorn/core/tensor.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <cstring>
#include <optional>

#include "einkorn/core/error.h"
#include "einkorn/core/text.h"

namespace einkorn {
namespace {

std::optional<at::ScalarType> scalar_type(char kind, std::size_t size) {
  switch (kind) {
    case 'b':
      return at::kBool;
    case 'i':
      if (size == 1) return at::kChar;
      if (size == 2) return at::kShort;
      if (size == 4) return at::kInt;
      if (size == 8) return at::kLong;
      break;
    case 'u':
      if (size == 1) return at::kByte;
      if (size == 2) return at::kUInt16;
      if (size == 4) return at::kUInt32;
      if (size == 8) return at::kUInt64;
      break;
    case 'f':
      if (size == 2) return at::kHalf;
      if (size == 4) return at::kFloat;
      if (size == 8) return at::kDouble;
      break;
    case 'c':
      if (size == 8) return at::kComplexFloat;
      if (size == 16) return at::kComplexDouble;
      break;
    default:
      break;
  }
  return std::nullopt;
}

char kind_of(at::ScalarType type) {
  if (type == at::kBool) return 'b';
  if (at::isComplexType(type)) return 'c';
  if (at::isFloatingType(type)) return 'f';
  return at::isSignedType(type) ? 'i' : 'u';
}

}  // namespace

void require_dense(const at::Tensor& tensor, const char* name) {
  require(tensor.defined(), "{}: no tensor given", name);
  require(tensor.layout() == at::kStrided, "{}: expected a dense tensor", name);
  require(tensor.is_cpu() || tensor.is_cuda(), "{}: expected a tensor on cpu or cuda, got {}", name,
          tensor.device().str());
  require_available(device_kind(tensor));
}

Device device_kind(const at::Tensor& tensor) {
  return tensor.is_cuda() ? Device::cuda : Device::cpu;
}

at::Device to_torch(Device device) {
  return device == Device::cuda ? at::Device(at::kCUDA) : at::Device(at::kCPU);
}

at::Tensor to_tensor(const NpyArray& array, const std::string& path) {
  const auto type = scalar_type(array.kind, array.item_size);
  if (!type) {
    throw BadFile(path, "header",
                  fmt::format("dtype {}{} has no torch counterpart", array.kind, array.item_size));
  }
  // A column-major array is the transpose of a row-major one with the shape turned round.
  std::vector<std::int64_t> shape = array.shape;
  if (array.fortran_order) std::reverse(shape.begin(), shape.end());
  at::Tensor tensor = at::empty(shape, at::dtype(*type));
  std::memcpy(tensor.data_ptr(), array.bytes.data(), array.bytes.size());
  if (!array.fortran_order || shape.size() < 2) return tensor;
  std::vector<std::int64_t> axes(shape.size());
  for (std::size_t i = 0; i < axes.size(); ++i) {
    axes[i] = static_cast<std::int64_t>(axes.size() - 1 - i);
  }
  return tensor.permute(axes).contiguous();
}

at::Tensor read_tensor(const std::filesystem::path& path, const std::string& name) {
  if (path.extension() != ".npz") return to_tensor(read_npy(path), path.string());
  const auto arrays = read_npz(path);
  std::vector<std::string> names;
  for (const auto& entry : arrays) names.push_back(entry.first);
  if (name.empty() && arrays.size() == 1) {
    return to_tensor(arrays.begin()->second, path.string());
  }
  const auto found = arrays.find(name);
  if (found == arrays.end()) {
    throw BadFile(
        path.string(), "",
        name.empty()
            ? fmt::format("holds {} arrays ({}); name one", arrays.size(), fmt::join(names, ", "))
            : fmt::format("no array '{}'; there are {}", name, fmt::join(names, ", ")));
  }
  return to_tensor(found->second, path.string());
}

void write_tensor(const OutputPath& path, const at::Tensor& tensor) {
  at::Tensor dense = tensor.detach().to(at::kCPU).contiguous();
  if (dense.scalar_type() == at::kBFloat16) dense = dense.to(at::kFloat);
  NpyArray array;
  array.kind = kind_of(dense.scalar_type());
  array.item_size = dense.element_size();
  array.shape = dense.sizes().vec();
  array.bytes.resize(dense.nbytes());
  std::memcpy(array.bytes.data(), dense.data_ptr(), dense.nbytes());
  write_npy(path, array);
}

}  // namespace einkorn
