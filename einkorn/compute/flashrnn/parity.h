// State tracking: a head-wise network learns running parity on short sequences and is tested on
// sixteen times their length.
#pragma once

#include <cstdint>
#include <vector>

#include "einkorn/compute/flashrnn/flashrnn.h"
#include "einkorn/core/progress.h"

namespace einkorn::flashrnn {

struct ParityOptions {
  Cell cell = Cell::lstm;
  std::int64_t heads = 2;
  std::int64_t dim = 8;
  std::int64_t batch = 64;
  std::int64_t time = 16;
  std::int64_t steps = 800;
  double learning_rate = 1e-2;
  double gradient_norm = 1;  // gradients are scaled down to this norm
  std::int64_t test_sequences = 200;
  std::int64_t test_time = 256;
  std::uint64_t seed = 0;
  Device device = Device::cpu;
  Backend backend = Backend::automatic;
};

struct ParityResult {
  double accuracy = 0;         // share of test steps whose parity is right
  double train_accuracy = 0;   // of the last training batch
  double loss = 0;             // of the last training batch, binary cross entropy in nats
  std::vector<double> losses;  // of all training batches
};

// Bits are +-1 inputs, at every step a linear map of h is the logit of the bits' sum modulo 2. Adam
// with its usual moments. Throws InvalidArgument for counts below 1, Interrupted when asked to
// stop.
ParityResult train_parity(const ParityOptions& options, const Progress& progress = {});

}  // namespace einkorn::flashrnn
