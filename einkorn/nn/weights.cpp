#include "einkorn/nn/weights.h"

#include <fmt/ranges.h>

#include <array>
#include <cstring>
#include <utility>

#include "einkorn/core/error.h"

namespace einkorn::nn {
namespace {

constexpr std::array<std::pair<const char*, at::ScalarType>, 9> types = {{{"F64", at::kDouble},
                                                                          {"F32", at::kFloat},
                                                                          {"F16", at::kHalf},
                                                                          {"BF16", at::kBFloat16},
                                                                          {"I64", at::kLong},
                                                                          {"I32", at::kInt},
                                                                          {"I16", at::kShort},
                                                                          {"I8", at::kChar},
                                                                          {"U8", at::kByte}}};

// "3 missing (a, b, c)", the first few by name.
void describe(std::vector<std::string>& problems, const char* what,
              const std::vector<std::string>& names) {
  if (names.empty()) return;
  constexpr std::size_t shown = 4;
  const std::vector<std::string> first(
      names.begin(), names.begin() + static_cast<std::ptrdiff_t>(std::min(shown, names.size())));
  problems.push_back(fmt::format("{} {} ({}{})", names.size(), what, fmt::join(first, ", "),
                                 names.size() > shown ? ", ..." : ""));
}

}  // namespace

SafetensorsEntry to_entry(const torch::Tensor& tensor) {
  const torch::Tensor dense = tensor.detach().to(at::kCPU).contiguous();
  for (const auto& [name, type] : types) {
    if (type != dense.scalar_type()) continue;
    SafetensorsEntry entry;
    entry.dtype = name;
    entry.shape = dense.sizes().vec();
    entry.bytes.resize(dense.nbytes());
    std::memcpy(entry.bytes.data(), dense.const_data_ptr(), entry.bytes.size());
    return entry;
  }
  throw InvalidArgument(
      fmt::format("safetensors: no type for tensors of {}", c10::toString(dense.scalar_type())));
}

torch::Tensor to_tensor(const SafetensorsEntry& entry, const std::string& path,
                        const std::string& name) {
  for (const auto& [dtype, type] : types) {
    if (entry.dtype != dtype) continue;
    torch::Tensor tensor = torch::empty(entry.shape, type);
    std::memcpy(tensor.mutable_data_ptr(), entry.bytes.data(), entry.bytes.size());
    return tensor;
  }
  throw BadFile(path, fmt::format("tensor '{}'", name),
                fmt::format("type {} has no torch counterpart here", entry.dtype));
}

NamedTensors read_tensors(const std::filesystem::path& path,
                          std::map<std::string, std::string>* metadata) {
  const SafetensorsFile file = read_safetensors(path);
  NamedTensors tensors;
  for (const auto& [name, entry] : file.tensors) {
    tensors.emplace(name, to_tensor(entry, path.string(), name));
  }
  if (metadata != nullptr) *metadata = file.metadata;
  return tensors;
}

void write_tensors(const OutputPath& path, const NamedTensors& tensors,
                   const std::map<std::string, std::string>& metadata) {
  SafetensorsFile file;
  file.metadata = metadata;
  for (const auto& [name, tensor] : tensors) file.tensors.emplace(name, to_entry(tensor));
  write_safetensors(path, file);
}

NamedTensors state_of(const torch::nn::Module& module) {
  NamedTensors state;
  for (const auto& item : module.named_parameters()) state.emplace(item.key(), item.value());
  for (const auto& item : module.named_buffers()) state.emplace(item.key(), item.value());
  return state;
}

void load_state(torch::nn::Module& module, const NamedTensors& tensors, const std::string& path) {
  NamedTensors state = state_of(module);
  std::vector<std::string> missing;
  std::vector<std::string> misshapen;
  std::vector<std::string> unexpected;
  for (const auto& [name, target] : state) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      missing.push_back(name);
    } else if (found->second.sizes() != target.sizes()) {
      misshapen.push_back(fmt::format("{} [{}], expected [{}]", name,
                                      fmt::join(found->second.sizes(), ", "),
                                      fmt::join(target.sizes(), ", ")));
    }
  }
  for (const auto& item : tensors) {
    if (state.count(item.first) == 0) unexpected.push_back(item.first);
  }
  std::vector<std::string> problems;
  describe(problems, "missing", missing);
  describe(problems, "unexpected", unexpected);
  describe(problems, "of another shape", misshapen);
  if (!problems.empty()) {
    throw BadFile(path, "",
                  fmt::format("weights do not fit the model: {}", fmt::join(problems, "; ")));
  }
  const torch::NoGradGuard no_grad;
  for (auto& [name, target] : state) target.copy_(tensors.at(name));
}

}  // namespace einkorn::nn
