// Grids of small language models, trained.
#pragma once

#include <cstdint>
#include <vector>

#include "einkorn/core/device.h"
#include "einkorn/core/progress.h"
#include "einkorn/scaling/step_law/step_law_fit.h"

namespace einkorn::step_law {

// Of the text the models are trained on, in tokens: letters of an order-2 Markov chain, for which
// this is length enough.
constexpr std::int64_t training_sequence_length = 16;

// The runs at one (N, D): several learning rates with every batch size, several times over. For
// AdamW the best learning rate grows about as the root of the batch size (Malladi et al. 2022,
// arXiv 2205.10287), and so do those of the grid, lest half of it lie far from any good run.
struct Study {
  std::int64_t hidden = 0;
  std::int64_t tokens = 0;            // D
  std::vector<double> rates;          // peaks at a batch of 64 tokens, ascending
  std::vector<std::int64_t> batches;  // tokens, ascending
  std::int64_t seeds = 1;             // each with its own language, text and first weights

  static double root_of_batch(double batch_tokens);  // sqrt(batch / 64): what rates are scaled by
};

struct TrainedStudy {
  Study study;
  std::int64_t params = 0;                               // N, without embedding and head
  std::vector<std::vector<std::vector<double>>> losses;  // [batch][rate][seed], held-out, nats

  // The runs, each averaged over the seeds, those of seed `except` (-1: none) left out. Runs that
  // diverged under any of these seeds are not among them.
  RunGroup group(std::int64_t except = -1) const;
};

// Trains every run of the studies, on text of seeds first_seed, first_seed + 1, ... The losses
// depend on the studies, the seed and the device alone, not on the number of threads. Throws
// Interrupted when asked to stop, InvalidArgument for empty studies and for batches that are no
// multiple of the sequence length or hold more than D. Reseeds torch's generators.
std::vector<TrainedStudy> train_studies(const std::vector<Study>& studies, Device device,
                                        std::uint64_t first_seed, const Progress& progress = {});

}  // namespace einkorn::step_law
