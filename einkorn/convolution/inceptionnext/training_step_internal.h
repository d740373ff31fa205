// Whole training steps of named networks on CUDA, for measurements: by our kernels and by torch's.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>
#include <vector>

#include "einkorn/convolution/inceptionnext/network.h"

namespace einkorn::inceptionnext {

// Casts to bf16 where torch's autocast does, while it lives.
class Autocast {
 public:
  explicit Autocast(bool enabled);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool before_;
};

// torch's AdamW as one kernel over all parameters.
class FusedAdamW {
 public:
  explicit FusedAdamW(std::vector<at::Tensor> parameters);

  void step();

 private:
  std::vector<at::Tensor> parameters_;
  std::vector<at::Tensor> means_;
  std::vector<at::Tensor> squares_;
  std::vector<at::Tensor> steps_;
};

enum class Operators { ours, stock };

// Forward, cross-entropy, backward and AdamW on random images of 224 x 224 that stay on the device,
// recorded once in a CUDA graph and replayed: launching hundreds of small kernels one by one would
// leave the device idle, by anyone's operators.
class TrainingStep {
 public:
  // type: f32, or bf16 for mixed precision (the stock network: autocast). format: the stock
  // network's images and weights; ours are channels last.
  TrainingStep(const std::string& model, std::int64_t images, at::ScalarType type,
               Operators operators, at::MemoryFormat format = at::MemoryFormat::ChannelsLast);
  ~TrainingStep();

  void operator()();

 private:
  struct Recording;

  at::Tensor logits();
  void run();
  void record();

  Network network_;
  at::ScalarType type_;
  Operators operators_;
  at::Tensor images_;
  at::Tensor labels_;
  FusedAdamW optimizer_;
  std::unique_ptr<Recording> recording_;
};

// Puts a network's four-dimensional parameters into a memory format.
void set_memory_format(NetworkImpl& network, at::MemoryFormat format);

}  // namespace einkorn::inceptionnext
