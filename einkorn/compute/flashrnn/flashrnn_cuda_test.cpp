// The device kernels against the reference; skipped where there is no CUDA device.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "einkorn/compute/flashrnn/flashrnn.h"
#include "einkorn/core/device.h"

namespace einkorn::flashrnn {
namespace {

constexpr Cell all_cells[] = {Cell::lstm, Cell::gru, Cell::elman, Cell::slstm};

class OnCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (!is_available(Device::cuda)) GTEST_SKIP() << "this machine has no CUDA device";
    at::manual_seed(1);
  }
};

struct Shape {
  std::int64_t batch, time, heads, dim;
};

struct Outcome {
  std::vector<at::Tensor> tensors;  // states, last, and the gradients of all inputs
};

struct Case {
  Cell cell;
  Shape shape;
  at::ScalarType type;
  at::Tensor lengths;
};

std::vector<at::Tensor> inputs_of(const Case& one) {
  const CellShape counts = shape_of(one.cell);
  const auto [batch, time, heads, dim] = one.shape;
  const auto options = at::TensorOptions().dtype(at::kDouble);
  std::vector<at::Tensor> inputs = {
      at::randn({batch, time, counts.input_gates, heads, dim}, options),
      at::randn({counts.recurrent_gates, heads, dim, dim}, options) /
          std::sqrt(static_cast<double>(dim)),
      at::randn({counts.biases, heads, dim}, options),
      0.3 * at::randn({counts.states, batch, heads, dim}, options)};
  if (one.cell == Cell::slstm) inputs[3][2] = inputs[3][2].abs() + 1;
  for (at::Tensor& tensor : inputs) tensor = tensor.to(one.type);
  return inputs;
}

Outcome run(const Case& one, std::vector<at::Tensor> inputs, RnnOptions how, at::Device device) {
  for (at::Tensor& tensor : inputs) tensor = tensor.to(device).detach().requires_grad_();
  const RnnResult found =
      rnn(one.cell, inputs[0], inputs[1], inputs[2], inputs[3], one.lengths, how);
  const auto weights = [&](const at::Tensor& tensor) {
    at::Tensor values =
        at::cos(at::arange(tensor.numel(), at::kDouble)).view(tensor.sizes()).clone();
    if (one.cell == Cell::slstm) values[3].zero_();  // m is a constant of the gradient
    return values.to(tensor.device());
  };
  const at::Tensor loss = (found.states.to(at::kDouble) * weights(found.states)).sum() +
                          (found.last.to(at::kDouble) * weights(found.last)).sum();
  const auto gradients = torch::autograd::grad({loss}, inputs);
  Outcome out = {{found.states, found.last}};
  out.tensors.insert(out.tensors.end(), gradients.begin(), gradients.end());
  for (at::Tensor& tensor : out.tensors) tensor = tensor.detach().to(at::kCPU, at::kDouble);
  return out;
}

void expect_agreement(const Case& one, const RnnOptions& how, double tolerance) {
  const std::vector<at::Tensor> inputs = inputs_of(one);
  RnnOptions by_reference = how;
  by_reference.backend = Backend::reference;
  const Outcome expected = run(one, inputs, by_reference, at::kCPU);
  const Outcome found = run(one, inputs, how, at::kCUDA);
  for (std::size_t i = 0; i < found.tensors.size(); ++i) {
    const at::Tensor& a = found.tensors[i];
    const at::Tensor& b = expected.tensors[i];
    ASSERT_TRUE(a.isfinite().all().item<bool>()) << i;
    const double error = (a - b).norm().item<double>() / (b.norm().item<double>() + 1e-9);
    EXPECT_LE(error, tolerance) << i;
  }
}

double tolerance_of(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return 1e-12;
    case at::kFloat:
      return 2e-5;
    case at::kHalf:
      return 6e-3;
    default:
      return 4e-2;
  }
}

TEST_F(OnCuda, KernelsAgreeWithTheReference) {
  const Shape shapes[] = {{1, 1, 1, 1},   {3, 5, 2, 7},    {16, 6, 1, 33},  {17, 6, 3, 64},
                          {9, 4, 2, 100}, {8, 20, 1, 128}, {2, 20, 1, 256}, {16, 5, 1, 768},
                          {40, 4, 5, 40}, {70, 3, 1, 200}, {2, 3, 1, 1100}};
  for (const Cell cell : all_cells) {
    for (const Shape& shape : shapes) {
      for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16}) {
        for (const Backend backend : {Backend::automatic, Backend::gpu_alternating}) {
          SCOPED_TRACE(testing::Message()
                       << to_string(cell) << " B=" << shape.batch << " T=" << shape.time
                       << " N=" << shape.heads << " D=" << shape.dim << " " << toString(type) << " "
                       << to_string(backend));
          RnnOptions how;
          how.backend = backend;
          expect_agreement({cell, shape, type, {}}, how, tolerance_of(type));
        }
      }
    }
  }
}

TEST_F(OnCuda, OptionsAgreeWithTheReference) {
  const at::Tensor lengths = at::tensor({7, 0, 3, 1, 6}, at::kLong);
  for (const Cell cell : all_cells) {
    for (const std::int64_t dim : {40, 150}) {
      for (const Backend backend : {Backend::automatic, Backend::gpu_alternating}) {
        for (int variant = 0; variant < 6; ++variant) {
          SCOPED_TRACE(testing::Message() << to_string(cell) << " D=" << dim << " variant "
                                          << variant << " " << to_string(backend));
          RnnOptions how;
          how.backend = backend;
          how.reverse = variant % 2 == 1;
          if (variant == 2) how.gradient_cut = true;
          if (variant == 3) how.state_dtype = at::kFloat;
          if (variant == 4) how.gradient_clip = 0.1;
          if (variant == 5) how.checkpoint_every = 3;
          expect_agreement({cell, {5, 7, 2, dim}, at::kBFloat16, lengths}, how, 4e-2);
        }
      }
    }
  }
}

TEST_F(OnCuda, GroupsInSeveralLaunchesAgree) {
  const Case one = {Cell::lstm, {300, 40, 2, 300}, at::kHalf, {}};
  expect_agreement(one, {}, 1e-2);
}

}  // namespace
}  // namespace einkorn::flashrnn
