// What every launcher of a device kernel does after its launch. For CUDA sources only.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace einkorn {

inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

// Throws if the launch just made was refused. Does not wait for the kernel.
inline void check_launch(const char* kernel) {
  check_cuda(cudaGetLastError(), kernel);
}

// Multiprocessors of the current device, for grids that fill it once.
inline int multiprocessor_count() {
  int device = 0;
  int count = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
             "cudaDeviceGetAttribute");
  return count;
}

}  // namespace einkorn
