// What the two sources of the small-batch kernels share.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace einkorn::marlin {

struct SmallBatchParams {
  const std::uint32_t* words;
  const std::uint16_t* scales;
  const std::uint16_t* zeros;
  bool scales_are_bf16;
  int inputs;
  int outputs;
  int slabs;
  int group_shift;  // log2 of rows a group; 30: all rows
  int groups;
  const void* a;
  std::int64_t a_stride;
  int rows;
  void* out;
  const float* bias;
  float* partial;
  int* counters;
  int tiles;
  int tile_steps;  // steps of one tile
  int blocks;
};

// Kernels of one element type; the rest of the parameters is filled in at launch.
void launch_small_batch_f16(const SmallBatchParams& p, int bits, int processors,
                            cudaStream_t stream);
void launch_small_batch_bf16(const SmallBatchParams& p, int bits, int processors,
                             cudaStream_t stream);

}  // namespace einkorn::marlin
