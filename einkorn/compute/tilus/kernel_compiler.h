// Compiling generated CUDA at run time, with a cache on disk, and launching it. Nothing here needs
// CUDA to build: NVRTC and the driver are loaded when they are called for.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "einkorn/compute/tilus/cuda_source.h"

namespace einkorn::tilus {

struct CompileOptions {
  std::string architecture = "sm_90a";
  // Empty: $EINKORN_CACHE/tilus, else einkorn/tilus in $XDG_CACHE_HOME or ~/.cache. A cache that
  // cannot be written is done without.
  std::filesystem::path cache = {};
  bool use_cache = true;
};

struct CompiledKernel {
  std::vector<std::byte> image;  // a cubin
  std::string compiler;          // "NVRTC 13.0", "nvcc /usr/local/cuda/bin/nvcc"
  bool from_cache = false;
};

// Compiles with NVRTC if it can be loaded, else with nvcc ($CUDACXX, PATH, /usr/local/cuda). Throws
// InvalidArgument where neither is there, and std::runtime_error with the compiler's words where
// the text does not compile.
CompiledKernel compile_cuda(const CudaSource& source, const CompileOptions& options = {});

// Where compiled kernels are kept if nothing else is said; empty where no place can be named.
std::filesystem::path kernel_cache();

// What compile_cuda would use: as CompiledKernel::compiler; empty where there is nothing.
std::string cuda_compiler();

// The name under which the cache keeps a source: it depends on every character of source,
// architecture and compiler.
std::string cache_key(const std::string& source, const std::string& architecture,
                      const std::string& compiler);

// A kernel on the current device, through the driver (libcuda). Not copyable; unloads itself.
class LoadedKernel {
 public:
  // Throws std::runtime_error if there is no driver, or it refuses.
  LoadedKernel(const CompiledKernel& kernel, const CudaSource& source);
  ~LoadedKernel();
  LoadedKernel(const LoadedKernel&) = delete;
  LoadedKernel& operator=(const LoadedKernel&) = delete;

  // Pointers to the arguments, in the order of the parameters. Queues the kernel on the stream (a
  // cudaStream_t) and does not wait.
  void launch(const std::array<unsigned, 3>& grid, std::vector<void*>& arguments,
              void* stream) const;

 private:
  void* module_ = nullptr;
  void* function_ = nullptr;
  unsigned threads_;
  unsigned shared_bytes_;
};

}  // namespace einkorn::tilus
