#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <map>
#include <thread>

#include "einkorn/core/error.h"
#include "einkorn/core/tensor.h"
#include "einkorn/scaling/step_law/decoder_replicas_internal.h"
#include "einkorn/scaling/step_law/markov_text_internal.h"
#include "einkorn/scaling/step_law/study_training_internal.h"

namespace einkorn::step_law {
namespace {

constexpr std::int64_t vocabulary = 12;
constexpr double log_odds_sigma = 1;
constexpr std::int64_t held_out_sequences = 1024;

nn::DecoderOptions shape(std::int64_t hidden) {
  return {.vocabulary = vocabulary,
          .hidden = hidden,
          .ffn_hidden = hidden * 8 / 3,
          .layers = 2,
          .heads = 4};
}

// Text to train on and text held out, of each seed's language.
struct Corpus {
  at::Tensor text;      // [seeds, count, length + 1] i64
  at::Tensor held_out;  // the same
};

Corpus write_corpus(const std::vector<std::uint64_t>& seeds, std::int64_t tokens,
                    const at::Device& device) {
  std::vector<at::Tensor> text;
  std::vector<at::Tensor> held_out;
  for (const std::uint64_t seed : seeds) {
    MarkovText source(vocabulary, log_odds_sigma, seed);
    held_out.push_back(source.sequences(held_out_sequences, training_sequence_length + 1));
    text.push_back(
        source.sequences(tokens / training_sequence_length, training_sequence_length + 1));
  }
  return {at::stack(text).to(device), at::stack(held_out).to(device)};
}

// All learning rates of one batch size, for some of the seeds: what is trained side by side.
struct Task {
  std::size_t study = 0;
  std::size_t batch = 0;
  std::int64_t first_seed = 0;
  std::int64_t seeds = 0;
  std::int64_t steps = 0;
};

// Dearest first, so that the threads end together.
std::vector<Task> tasks_of(const std::vector<Study>& studies, Device device) {
  std::vector<Task> tasks;
  for (std::size_t i = 0; i < studies.size(); ++i) {
    // A GPU is filled by all seeds at once; a core is by one, and its cache overflows with more.
    const std::int64_t together = device == Device::cpu ? 1 : studies[i].seeds;
    for (std::size_t j = 0; j < studies[i].batches.size(); ++j) {
      for (std::int64_t seed = 0; seed < studies[i].seeds; seed += together) {
        tasks.push_back({i, j, seed, together, studies[i].tokens / studies[i].batches[j]});
      }
    }
  }
  // A step costs about as much as 64 tokens more.
  const auto cost = [&](const Task& task) {
    return (studies[task.study].tokens + 64 * task.steps) * studies[task.study].hidden;
  };
  std::stable_sort(tasks.begin(), tasks.end(),
                   [&](const Task& a, const Task& b) { return cost(a) > cost(b); });
  return tasks;
}

// Losses on the held-out text, [seeds, rates] f64 on the CPU.
at::Tensor train(const Task& task, const Study& study, const DecoderWeights& weights,
                 const Corpus& corpus, const std::function<void()>& after_step) {
  const auto rates = static_cast<std::int64_t>(study.rates.size());
  const auto of_task = [&](const at::Tensor& all) {
    return all.narrow(0, task.first_seed, task.seeds);
  };
  const at::Tensor text = of_task(corpus.text);
  DecoderReplicas replicas(shape(study.hidden),
                           {weights.names, weights.shapes, of_task(weights.rows)}, rates);
  const std::int64_t batch = study.batches[task.batch];
  std::vector<double> peaks = study.rates;
  for (double& peak : peaks) peak *= Study::root_of_batch(static_cast<double>(batch));
  const at::Tensor schedule =
      learning_rates(peaks, task.steps).repeat({1, task.seeds}).to(text.device());
  const std::int64_t sequences = batch / training_sequence_length;
  for (std::int64_t step = 0; step < task.steps; ++step) {
    replicas.step(text.narrow(1, step * sequences, sequences), schedule.select(0, step));
    after_step();
  }
  const torch::NoGradGuard no_grad;
  return replicas.losses(of_task(corpus.held_out))
      .view({task.seeds, rates})
      .to(at::kCPU, at::kDouble);
}

void check(const Study& study) {
  require(study.hidden >= 1 && study.seeds >= 1 && !study.rates.empty() && !study.batches.empty(),
          "a study needs a hidden size, a seed, a learning rate and a batch size");
  for (const std::int64_t batch : study.batches) {
    require(batch >= 1 && batch % training_sequence_length == 0 && batch <= study.tokens,
            "batch: expected a multiple of {} tokens, at most {}, got {}", training_sequence_length,
            study.tokens, batch);
  }
}

// What the tasks of all threads share. Weights are drawn before any starts: the generator that
// draws them is torch's only one.
class Trainer {
 public:
  Trainer(const std::vector<Study>& studies, Device device, std::uint64_t first_seed)
      : device_(device), tasks_(tasks_of(studies, device)) {
    std::int64_t tokens = 0;
    std::vector<std::uint64_t> seeds;
    for (const Study& study : studies) {
      tokens = std::max(tokens, study.tokens);
      while (static_cast<std::int64_t>(seeds.size()) < study.seeds) {
        seeds.push_back(first_seed + seeds.size());
      }
    }
    corpus_ = write_corpus(seeds, tokens, to_torch(device));
    for (const Study& study : studies) {
      if (!weights_.contains(study.hidden)) {
        DecoderWeights drawn = draw_weights(shape(study.hidden), seeds);
        drawn.rows = drawn.rows.to(to_torch(device));
        weights_.emplace(study.hidden, std::move(drawn));
      }
      trained_.push_back(
          {study,
           nn::Decoder(shape(study.hidden))->non_embedding_parameters(),
           {study.batches.size(),
            {study.rates.size(), std::vector<double>(static_cast<std::size_t>(study.seeds))}}});
    }
  }

  // Whole tasks a thread rather than threads within a step: at these sizes a step's own loops are
  // too short to share. On a GPU the threads only queue kernels, and autograd queues those of all
  // backward passes from one thread, so that a few keep it busy.
  std::vector<TrainedStudy> run(const Progress& progress) {
    const std::int64_t threads =
        device_ == Device::cpu ? at::get_num_threads() : std::min(4, at::get_num_threads());
    const auto caller = std::this_thread::get_id();
    at::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
      const torch::AutoGradMode with_gradients(true);
      const bool reports = std::this_thread::get_id() == caller;
      try {
        for (std::size_t i = next_++; i < tasks_.size(); i = next_++) {
          run(tasks_[i], reports ? progress : Progress());
        }
      } catch (const Stopped&) {
        // The thread that failed says why.
      } catch (...) {
        stopped_ = true;
        throw;
      }
    });
    return std::move(trained_);
  }

 private:
  struct Stopped {};  // thrown where another thread failed

  void run(const Task& task, const Progress& progress) {
    TrainedStudy& trained = trained_[task.study];
    const Study& study = trained.study;
    const std::int64_t total = total_tokens();
    const at::Tensor losses = train(task, study, weights_.at(study.hidden), corpus_, [&] {
      if (stopped_) throw Stopped();
      progress("training", done_ += study.batches[task.batch] * task.seeds, total);
    });
    for (std::int64_t i = 0; i < task.seeds; ++i) {
      for (std::size_t j = 0; j < study.rates.size(); ++j) {
        trained.losses[task.batch][j][static_cast<std::size_t>(task.first_seed + i)] =
            losses[i][static_cast<std::int64_t>(j)].item<double>();
      }
    }
  }

  std::int64_t total_tokens() const {
    std::int64_t total = 0;
    for (const Task& task : tasks_) total += trained_[task.study].study.tokens * task.seeds;
    return total;
  }

  Device device_;
  std::vector<Task> tasks_;
  Corpus corpus_;
  std::map<std::int64_t, DecoderWeights> weights_;  // by hidden size
  std::vector<TrainedStudy> trained_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::int64_t> done_{0};  // tokens
  std::atomic<bool> stopped_{false};
};

}  // namespace

double Study::root_of_batch(double batch_tokens) {
  return std::sqrt(batch_tokens / 64);
}

RunGroup TrainedStudy::group(std::int64_t except) const {
  RunGroup all{static_cast<double>(params), static_cast<double>(study.tokens), {}};
  for (std::size_t i = 0; i < study.batches.size(); ++i) {
    const auto batch = static_cast<double>(study.batches[i]);
    for (std::size_t j = 0; j < study.rates.size(); ++j) {
      std::vector<double> kept = losses[i][j];
      if (except >= 0) kept.erase(kept.begin() + except);
      double mean = 0;
      for (const double loss : kept) mean += loss / static_cast<double>(kept.size());
      if (!std::isfinite(mean)) continue;
      all.runs.push_back({all.params, all.tokens, study.rates[j] * Study::root_of_batch(batch),
                          batch / training_sequence_length, mean, all.params});
    }
  }
  return all;
}

std::vector<TrainedStudy> train_studies(const std::vector<Study>& studies, Device device,
                                        std::uint64_t first_seed, const Progress& progress) {
  for (const Study& study : studies) check(study);
  if (studies.empty()) return {};
  return Trainer(studies, device, first_seed).run(progress);
}

}  // namespace einkorn::step_law
