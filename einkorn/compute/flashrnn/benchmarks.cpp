#include <torch/torch.h>

#include <memory>

#include "einkorn/compute/flashrnn/flashrnn_experiments.h"
#include "einkorn/compute/flashrnn/layer.h"
#include "einkorn/core/python_peer.h"

namespace einkorn::flashrnn {
namespace {

struct LayerCase {
  const char* name;
  const char* peer;  // torch.nn's class
  Cell cell;
  std::int64_t time;
  bool with_gradient;
  Device device;
};

constexpr std::int64_t batch = 16;
constexpr std::int64_t size = 768;

// Input projection and recurrence, forward; twice that again for the gradient.
Work layer_work(const LayerCase& one) {
  const CellShape shape = shape_of(one.cell);
  const double rows = static_cast<double>(batch * one.time);
  const double gates = static_cast<double>(shape.input_gates);
  const double forward = 2 * 2 * rows * gates * size * size;
  const double numbers = rows * size * (2 * gates + static_cast<double>(shape.states) + 2);
  const double bytes = one.device == Device::cpu ? 4 : 2;
  return {forward * (one.with_gradient ? 3 : 1), bytes * numbers * (one.with_gradient ? 2 : 1)};
}

std::string peer_setup(const LayerCase& one) {
  const bool on_gpu = one.device == Device::cuda;
  return fmt::format(
      "import torch\n"
      "torch.manual_seed(0)\n"
      "place = dict(device='{}', dtype=torch.{})\n"
      "layer = torch.nn.{}({}, {}, batch_first=True).to(**place)\n"
      "layer.flatten_parameters()\n"
      "x = torch.randn({}, {}, {}, **place).requires_grad_({})\n"
      "def forward():\n"
      "    with torch.no_grad():\n"
      "        layer(x)\n"
      "    {}\n"
      "def both():\n"
      "    layer(x)[0].sum().backward()\n"
      "    {}\n",
      on_gpu ? "cuda" : "cpu", on_gpu ? "bfloat16" : "float32", one.peer, size, size, batch,
      one.time, size, one.with_gradient ? "True" : "False",
      on_gpu ? "torch.cuda.synchronize()" : "pass", on_gpu ? "torch.cuda.synchronize()" : "pass");
}

Benchmark layer_benchmark(const LayerCase& one) {
  return {fmt::format("{} layer 768 -> 768, batch 16, {} steps, {}, {}", one.name, one.time,
                      one.device == Device::cpu ? "f32" : "bf16",
                      one.with_gradient ? "forward + backward" : "forward"),
          one.device == Device::cpu ? fmt::format("torch.nn.{}", one.peer)
                                    : fmt::format("torch.nn.{} (cuDNN)", one.peer),
          {one.device},
          [one](Device device) {
            const auto type = device == Device::cpu ? at::kFloat : at::kBFloat16;
            LayerOptions options;
            options.cell = one.cell;
            options.input_size = size;
            options.hidden_size = size;
            Layer layer(options);
            layer->to(to_torch(device), type);
            const at::Tensor x = at::randn({batch, one.time, size})
                                     .to(to_torch(device), type)
                                     .requires_grad_(one.with_gradient);
            Contest contest;
            contest.ours = timed(
                [layer, x, one]() mutable {
                  if (one.with_gradient) {
                    layer->forward(x).output.sum().backward();
                  } else {
                    const torch::NoGradGuard no_grad;
                    layer->forward(x);
                  }
                },
                device);
            contest.work = layer_work(one);
            contest.arithmetic = device == Device::cpu ? Arithmetic::f32 : Arithmetic::bf16;
            set_python_peer(contest, peer_setup(one), one.with_gradient ? "both()" : "forward()");
            return contest;
          }};
}

// Small heads: the fused kernel against the alternating ones.
Benchmark heads_benchmark(Cell cell, bool with_gradient) {
  constexpr std::int64_t heads = 12, dim = 64, time = 512;
  return {fmt::format("{} 12 heads x 64, batch 16, 512 steps, bf16, {}", to_string(cell),
                      with_gradient ? "forward + backward" : "forward"),
          "alternating kernels",
          {Device::cuda},
          [=](Device device) {
            const auto side = [&](Backend backend) {
              Inputs in = draw_inputs(cell, batch, time, heads, dim, at::kBFloat16, device, 1);
              for (at::Tensor* tensor : {&in.input, &in.recurrent, &in.bias}) {
                tensor->requires_grad_(with_gradient);
              }
              RnnOptions how;
              how.backend = backend;
              return timed(
                  [=] {
                    const RnnResult found = rnn(cell, in.input, in.recurrent, in.bias, {}, {}, how);
                    if (with_gradient) found.states[0].sum().backward();
                  },
                  device);
            };
            Contest contest;
            contest.ours = side(Backend::automatic);
            contest.peer = side(Backend::gpu_alternating);
            const double points = static_cast<double>(batch * time * heads * dim);
            contest.work = {(with_gradient ? 3 : 1) * 2.0 * 4 * points * dim, 2 * points * 10};
            contest.arithmetic = Arithmetic::bf16;
            return contest;
          }};
}

}  // namespace

std::vector<Benchmark> benchmarks() {
  std::vector<Benchmark> all;
  for (const Device device : {Device::cpu, Device::cuda}) {
    const std::int64_t time = device == Device::cpu ? 256 : 1024;
    for (const bool with_gradient : {false, true}) {
      all.push_back(layer_benchmark({"LSTM", "LSTM", Cell::lstm, time, with_gradient, device}));
      all.push_back(layer_benchmark({"GRU", "GRU", Cell::gru, time, with_gradient, device}));
    }
  }
  for (const Cell cell : {Cell::lstm, Cell::slstm}) {
    for (const bool with_gradient : {false, true}) {
      all.push_back(heads_benchmark(cell, with_gradient));
    }
  }
  return all;
}

}  // namespace einkorn::flashrnn
