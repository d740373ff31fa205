// Weights of modules as safetensors files, under the names that the modules' parts have.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <map>
#include <string>

#include "einkorn/core/files/safetensors.h"
#include "einkorn/core/options.h"

namespace einkorn::nn {

using NamedTensors = std::map<std::string, torch::Tensor>;

// A tensor as a file's entry and back. Throws InvalidArgument for types that the format lacks,
// BadFile for types that torch lacks.
SafetensorsEntry to_entry(const torch::Tensor& tensor);
torch::Tensor to_tensor(const SafetensorsEntry& entry, const std::string& path,
                        const std::string& name);

NamedTensors read_tensors(const std::filesystem::path& path,
                          std::map<std::string, std::string>* metadata = nullptr);
void write_tensors(const OutputPath& path, const NamedTensors& tensors,
                   const std::map<std::string, std::string>& metadata = {});

// All parameters and buffers; the tensors share the module's memory.
NamedTensors state_of(const torch::nn::Module& module);

// Copies tensors into the module's parameters and buffers, converted to their types. Throws BadFile
// that names missing, unexpected and misshapen tensors. path is only for messages.
void load_state(torch::nn::Module& module, const NamedTensors& tensors, const std::string& path);

}  // namespace einkorn::nn
