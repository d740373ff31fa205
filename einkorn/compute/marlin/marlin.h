// Few activations times many 4- or 8-bit weights: C = A W, with A [.., K] floating and W [K, N]
// quantised (quantize.h). Time goes into reading W, so four bits a weight are nearly four times as
// fast as sixteen; the activations stay floating point.
//
// Frantar, Castro, Chen, Hoefler, Alistarh, "MARLIN: Mixed-Precision Auto-Regressive Parallel
// Inference on Large Language Models", 2024, arXiv 2408.11743.
#pragma once

#include <cstdint>
#include <optional>

#include "einkorn/compute/marlin/quantize.h"
#include "einkorn/core/tensor.h"

namespace einkorn::marlin {

// Weights as a device's kernels read them: made once, used often. On the CPU slabs of 64 columns,
// each one stream; on CUDA the words of the file format and permuted scales.
struct PreparedWeights {
  std::int64_t inputs = 0;
  std::int64_t outputs = 0;
  int bits = 4;
  std::int64_t group_size = 128;
  at::Tensor words;        // i32
  at::Tensor scales;       // f16 or bf16
  at::Tensor zero_points;  // undefined for symmetric weights
  at::Tensor order;        // i64 [K]; undefined without act-order
  at::Tensor bias;         // f32 [N]; undefined for none

  at::Device device() const { return words.device(); }
};

// 2:4 sparse weights become dense ones whose pruned weights are 0. Throws InvalidArgument.
PreparedWeights prepare(const QuantizedWeights& weights, at::Device device);

// W [K, N] of prepared weights in the order of the inputs, as dequantize does.
at::Tensor dequantize(const PreparedWeights& weights, at::ScalarType dtype);

enum class Activations {
  floating,  // as they are
  int8,  // rounded to 8 bits, one scale a row and group: |error| <= max|a| / 254 each. CPU only.
};

// activations [.., K] f16, bf16, f32 or f64 (CUDA: f16 or bf16) on the device of the weights, any
// strides -> [.., N] of the same dtype. Sums are kept in f32 (f64 for f64) and rounded once; the
// same bits for the same input on any number of threads and in every run on the same kind of
// device. A zero-size dimension gives an empty result, K = 0 zeros (plus bias).
//
// On the CPU weights enter exactly: (q - zero) times the sum, then the scale. So they do on CUDA up
// to 32 rows; with more rows a weight is rounded to the dtype of the activations first, as in the
// paper.
//
// NaN and infinities: an activation that is not finite makes all results of its row not finite (NaN
// or an infinity, which of them is not promised). f16 results beyond 65504 become infinities.
//
// Differentiable in the activations (twice; the weights are constants). Throws InvalidArgument.
at::Tensor matmul(const at::Tensor& activations, const PreparedWeights& weights,
                  Activations how = Activations::floating);

// The official call: A [M, K] f16 or bf16, B i32 [K/16, 2 N], s [groups, N] in permuted order ->
// [M, N]. Prepares the weights at each call; use prepare() once where they stay.
at::Tensor mul(const at::Tensor& A, const at::Tensor& B, const at::Tensor& s);
// The sparse one: B i32 [K/32, 2 N], meta i16 [N, K/16].
at::Tensor mul_2_4(const at::Tensor& A, const at::Tensor& B, const at::Tensor& meta,
                   const at::Tensor& s);

// How the paper cuts work into stripes (its section on striped partitioning; a property of the
// format's users that plan their own kernels, and of the tests).
struct Stripe {
  std::int64_t slice = 0;   // column of tiles
  std::int64_t row = 0;     // first tile row
  std::int64_t length = 0;  // tiles
  std::int64_t index = 0;   // of the slice's blocks, counted from the bottom
  std::int64_t count = 0;   // blocks of the slice
};
struct StripePlan {
  std::int64_t iterations = 0;              // tiles a block
  std::vector<std::vector<Stripe>> blocks;  // of each block that has work
};
// tiles_per_group: tile rows of a group, 1 where groups do not matter. Throws InvalidArgument for
// sizes < 1.
StripePlan plan_stripes(std::int64_t tile_rows, std::int64_t tile_columns, std::int64_t processors,
                        std::int64_t tiles_per_group = 1);

}  // namespace einkorn::marlin
