// The recurrence: the paper's reference values, every kernel against the reference, gradients,
// identities, bad input.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <torch/torch.h>

#include <cmath>

#include "einkorn/compute/flashrnn/flashrnn.h"
#include "einkorn/compute/flashrnn/flashrnn_experiments.h"
#include "einkorn/core/error.h"
#include "einkorn/core/isa.h"

namespace einkorn::flashrnn {
namespace {

using testing::HasSubstr;

constexpr Cell all_cells[] = {Cell::lstm, Cell::gru, Cell::elman, Cell::slstm};

// c sin(a (index + 1) + phase), row-major.
at::Tensor sines(at::IntArrayRef sizes, double a, double phase, double c) {
  const at::Tensor index =
      at::arange(1, c10::multiply_integers(sizes) + 1, at::kDouble).view(sizes);
  return c * at::sin(a * index + phase);
}

struct Example {
  at::Tensor input, recurrent, bias, initial;
};

Example paper_example(Cell cell, std::int64_t batch, std::int64_t time, std::int64_t heads,
                      std::int64_t dim, double phase) {
  const CellShape shape = shape_of(cell);
  Example out = {sines({batch, time, shape.input_gates, heads, dim}, 1.3, phase, 1.2),
                 sines({shape.recurrent_gates, heads, dim, dim}, 0.7, phase + 1, 0.9),
                 sines({shape.biases, heads, dim}, 2.1, phase + 2, 0.5),
                 sines({shape.states, batch, heads, dim}, 0.9, phase + 3, 0.3)};
  if (cell == Cell::slstm) {
    out.initial[2] = out.initial[2].abs() + 1;
    out.initial[3].zero_();
  }
  return out;
}

Example random_example(Cell cell, std::int64_t batch, std::int64_t time, std::int64_t heads,
                       std::int64_t dim, at::ScalarType type, std::int64_t seed = 0) {
  torch::manual_seed(seed);
  const CellShape shape = shape_of(cell);
  const auto options = at::TensorOptions().dtype(at::kDouble);
  Example out = {at::randn({batch, time, shape.input_gates, heads, dim}, options),
                 at::randn({shape.recurrent_gates, heads, dim, dim}, options) /
                     std::sqrt(static_cast<double>(dim)),
                 at::randn({shape.biases, heads, dim}, options),
                 0.3 * at::randn({shape.states, batch, heads, dim}, options)};
  if (cell == Cell::slstm) out.initial[2] = out.initial[2].abs() + 1;
  for (at::Tensor* tensor : {&out.input, &out.recurrent, &out.bias, &out.initial}) {
    *tensor = tensor->to(type);
  }
  return out;
}

struct ReferenceCase {
  Cell cell;
  bool second;
  double loss;
  std::vector<double> h;
  std::vector<double> norms;  // of the gradients of initial, input, recurrent, bias
};

const ReferenceCase reference_cases[] = {
    {Cell::lstm,
     false,
     0.220798929693,
     {0.0261633061281, 0.0113949779269},
     {0.395932023647, 0.41587900598, 0.137466545522, 0.467590273201}},
    {Cell::slstm,
     false,
     0.315989953712,
     {0.0379486113965, 0.0544602266359},
     {0.446346395269, 0.523006227631, 0.18821356398, 0.534912518344}},
    {Cell::gru,
     false,
     0.044773552729,
     {-0.246419496056, 0.00201038148745},
     {0.86246871494, 0.751725359983, 0.249887436023, 1.05163807659}},
    {Cell::elman,
     false,
     -0.162207639106,
     {-0.584735271234, 0.974904832321},
     {0.563657321055, 1.16167444568, 0.196956945926, 0.976320436975}},
    {Cell::lstm,
     true,
     0.259973601649,
     {-0.0558815101751, -0.40571890631, -0.344392174894},
     {0.819369065526, 0.987928833974, 0.306540825359, 0.557049407483}},
    {Cell::slstm,
     true,
     -0.107405815928,
     {-0.069337907279, -0.265551916905, -0.393562268291},
     {0.747766586205, 1.23719539244, 0.416155428924, 0.76089479392}},
    {Cell::gru,
     true,
     0.178597223527,
     {-0.710201080515, -0.0980185416199, 0.524869103108},
     {0.667626136497, 1.65212593301, 0.564847969092, 1.05294681549}},
    {Cell::elman,
     true,
     1.54920786461,
     {-0.945754093951, 0.875486607327, 0.933635864588},
     {0.687044603869, 2.93807682666, 5.11106576258, 2.482095355}},
};

TEST(Paper, ReferenceValues) {
  for (const ReferenceCase& known : reference_cases) {
    SCOPED_TRACE(to_string(known.cell) + (known.second ? " A2" : " A"));
    Example in = known.second ? paper_example(known.cell, 2, 4, 2, 3, 0.1)
                              : paper_example(known.cell, 1, 3, 1, 2, 0.4);
    for (at::Tensor* tensor : {&in.input, &in.recurrent, &in.bias, &in.initial}) {
      tensor->requires_grad_();
    }
    for (const Backend backend : {Backend::reference, Backend::automatic}) {
      RnnOptions how;
      how.backend = backend;
      const RnnResult found = rnn(known.cell, in.input, in.recurrent, in.bias, in.initial, {}, how);
      const at::Tensor h = found.states[0];
      const at::Tensor weights = at::cos(0.5 * at::arange(h.numel(), at::kDouble)).view(h.sizes());
      const at::Tensor loss = (weights * h).sum();
      EXPECT_NEAR(loss.item<double>(), known.loss, 2e-11);
      const at::Tensor last = h[-1][-1].flatten();
      for (std::size_t i = 0; i < known.h.size(); ++i) {
        EXPECT_NEAR(last[static_cast<std::int64_t>(i)].item<double>(), known.h[i], 1e-11);
      }
      const auto gradients =
          torch::autograd::grad({loss}, {in.initial, in.input, in.recurrent, in.bias});
      for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_NEAR(gradients[i].norm().item<double>(), known.norms[i], 2e-10) << i;
      }
    }
  }
}

TEST(Paper, FirstGradientsAndLastStates) {
  const auto first = [](Cell cell) {
    Example in = paper_example(cell, 1, 3, 1, 2, 0.4);
    in.recurrent.requires_grad_();
    const RnnResult found = rnn(cell, in.input, in.recurrent, in.bias, in.initial);
    const at::Tensor h = found.states[0];
    const at::Tensor loss =
        (at::cos(0.5 * at::arange(h.numel(), at::kDouble)).view(h.sizes()) * h).sum();
    const at::Tensor gradient = torch::autograd::grad({loss}, {in.recurrent})[0].flatten();
    return std::pair(gradient.slice(0, 0, 2), found.last);
  };
  const auto expect_near = [](const at::Tensor& found, double a, double b) {
    EXPECT_NEAR(found[0].item<double>(), a, 1e-11);
    EXPECT_NEAR(found[1].item<double>(), b, 1e-11);
  };
  const auto [lstm, lstm_last] = first(Cell::lstm);
  expect_near(lstm, -0.0189259136467, -0.0221790188093);
  expect_near(lstm_last[1][0][0].detach(), 0.168472708121, 0.0189836107638);
  const auto [slstm, slstm_last] = first(Cell::slstm);
  expect_near(slstm, -0.0275927899499, -0.0315345317601);
  expect_near(slstm_last[3][0][0].detach(), -0.488963682635, 0.420657961694);
  expect_near(first(Cell::gru).first, -0.180752038542, -0.141497740924);
  expect_near(first(Cell::elman).first, 0.0122016990337, 0.0438562247338);
}

TEST(Paper, SlstmFromZeroAndWithHugeGates) {
  const Example in = paper_example(Cell::slstm, 1, 3, 1, 2, 0.4);
  const at::Tensor last = rnn(Cell::slstm, in.input, in.recurrent, in.bias).last.flatten();
  const double expected[] = {0.0701377419, 0.0490032471, 0.9648487402,  0.1225422754,
                             1.8760055659, 1.4230363903, -0.2902369663, 0.3842172343};
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(last[i].item<double>(), expected[i], 1e-9) << i;

  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    at::Tensor huge = in.input.clone();
    huge.select(2, 0) += 200;
    huge.select(2, 1) -= 300;
    const at::Tensor states =
        rnn(Cell::slstm, huge.to(type), in.recurrent.to(type), in.bias.to(type)).states;
    EXPECT_TRUE(states.isfinite().all().item<bool>());
    EXPECT_TRUE(states[2].eq(1).all().item<bool>());
    EXPECT_NEAR(states[0][0][0][0][0].item<double>(), 0.249160, 2e-6);
    EXPECT_NEAR(states[0][0][0][0][1].item<double>(), 0.240140, 2e-6);
  }
}

// What one call gives and its gradients for fixed weights on the outputs.
std::vector<at::Tensor> outputs_and_gradients(Cell cell, Example in, const at::Tensor& lengths,
                                              const RnnOptions& how) {
  for (at::Tensor* tensor : {&in.input, &in.recurrent, &in.bias, &in.initial}) {
    *tensor = tensor->detach().requires_grad_();
  }
  const RnnResult found = rnn(cell, in.input, in.recurrent, in.bias, in.initial, lengths, how);
  torch::manual_seed(99);
  at::Tensor on_states = at::randn(found.states.sizes(), at::kDouble);
  at::Tensor on_last = at::randn(found.last.sizes(), at::kDouble);
  if (cell == Cell::slstm) {  // m is a constant of the gradient
    on_states[3].zero_();
    on_last[3].zero_();
  }
  const at::Tensor loss = (found.states.to(at::kDouble) * on_states).sum() +
                          (found.last.to(at::kDouble) * on_last).sum();
  auto all = torch::autograd::grad({loss}, {in.input, in.recurrent, in.bias, in.initial});
  all.push_back(found.states.detach());
  all.push_back(found.last.detach());
  return all;
}

void expect_agreement(const std::vector<at::Tensor>& found, const std::vector<at::Tensor>& expected,
                      double tolerance) {
  const char* names[] = {"d input", "d recurrent", "d bias", "d initial", "states", "last"};
  for (std::size_t i = 0; i < found.size(); ++i) {
    const at::Tensor a = found[i].to(at::kDouble), b = expected[i].to(at::kDouble);
    ASSERT_EQ(a.sizes(), b.sizes()) << names[i];
    ASSERT_TRUE(a.isfinite().all().item<bool>()) << names[i];
    if (a.numel() == 0) continue;
    const double scale = std::max(1.0, b.abs().max().item<double>());
    EXPECT_LE((a - b).abs().max().item<double>(), tolerance * scale) << names[i];
  }
}

RnnOptions by_reference(RnnOptions how) {
  how.backend = Backend::reference;
  return how;
}

TEST(Kernels, AgreeWithTheReferenceAtEveryLevel) {
  for (const Isa isa : supported_isas()) {
    const ScopedIsa scoped(isa);
    SCOPED_TRACE(to_string(isa));
    for (const Cell cell : all_cells) {
      for (const std::int64_t dim : {1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65}) {
        for (const auto& [batch, heads] : {std::pair<std::int64_t, std::int64_t>{1, 3}, {13, 1}}) {
          SCOPED_TRACE(testing::Message() << to_string(cell) << " D=" << dim << " B=" << batch);
          const Example in = random_example(cell, batch, 5, heads, dim, at::kDouble, dim);
          const auto expected = outputs_and_gradients(cell, in, {}, by_reference({}));
          expect_agreement(outputs_and_gradients(cell, in, {}, {}), expected, 1e-13);
          Example narrow = in;
          for (at::Tensor* tensor :
               {&narrow.input, &narrow.recurrent, &narrow.bias, &narrow.initial}) {
            *tensor = tensor->to(at::kFloat);
          }
          expect_agreement(outputs_and_gradients(cell, narrow, {}, {}), expected, 1e-5);
        }
      }
    }
  }
}

TEST(Kernels, AgreeForManyRowsAndWideHeads) {
  for (const Cell cell : all_cells) {
    SCOPED_TRACE(to_string(cell));
    for (const auto& [batch, time, heads, dim] : {std::tuple<int, int, int, int>{101, 3, 2, 20},
                                                  {3, 2, 1, 400},
                                                  {0, 3, 1, 4},
                                                  {2, 0, 1, 4}}) {
      const Example in = random_example(cell, batch, time, heads, dim, at::kFloat);
      expect_agreement(outputs_and_gradients(cell, in, {}, {}),
                       outputs_and_gradients(cell, in, {}, by_reference({})), 2e-5);
    }
  }
}

TEST(Kernels, TakeStridedViews) {
  for (const Cell cell : all_cells) {
    SCOPED_TRACE(to_string(cell));
    const Example in = random_example(cell, 3, 4, 2, 9, at::kFloat);
    Example strided = in;
    // Time first in memory; then every second unit of a wider tensor; then off by one element.
    strided.input = in.input.transpose(0, 1).contiguous().transpose(0, 1);
    strided.recurrent = at::stack({in.recurrent, in.recurrent}, -1).select(-1, 0);
    strided.bias = at::constant_pad_nd(in.bias, {1, 0}).slice(-1, 1);
    strided.initial = in.initial.transpose(1, 2).contiguous().transpose(1, 2);
    const auto expected = outputs_and_gradients(cell, in, {}, {});
    const auto found = outputs_and_gradients(cell, strided, {}, {});
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(at::equal(found[i], expected[i]));
    strided.input = at::stack({in.input, in.input}, -1).select(-1, 1);
    EXPECT_TRUE(at::equal(outputs_and_gradients(cell, strided, {}, {})[4], expected[4]));
  }
}

TEST(Kernels, GiveTheSameBitsOnAnyNumberOfThreads) {
  const int before = at::get_num_threads();
  for (const Cell cell : all_cells) {
    for (const auto& [heads, dim] :
         {std::pair<std::int64_t, std::int64_t>{1, 70}, {3, 40}, {1, 600}}) {
      SCOPED_TRACE(testing::Message() << to_string(cell) << " " << heads << " x " << dim);
      const Example in = random_example(cell, 17, 4, heads, dim, at::kFloat);
      std::vector<std::vector<at::Tensor>> found;
      for (const int threads : {1, 2, 3}) {
        at::set_num_threads(threads);
        RnnOptions how;
        const RnnSaved saved =
            rnn_forward(cell, in.input, in.recurrent, in.bias, in.initial, {}, how, true);
        const at::Tensor ones = at::ones_like(saved.states);
        const RnnGradients gradients =
            rnn_backward(cell, ones, {}, in.recurrent, saved, in.initial, {}, how);
        found.push_back(
            {saved.states, saved.last, saved.gates, gradients.input, gradients.initial});
      }
      for (std::size_t i = 0; i < found[0].size(); ++i) {
        EXPECT_TRUE(at::equal(found[0][i], found[1][i])) << i;
        EXPECT_TRUE(at::equal(found[0][i], found[2][i])) << i;
      }
    }
  }
  at::set_num_threads(before);
}

TEST(Kernels, ComputeShortTypesInFloat) {
  for (const Cell cell : all_cells) {
    SCOPED_TRACE(to_string(cell));
    for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
      const Example in = random_example(cell, 3, 9, 2, 12, type);
      const auto expected = outputs_and_gradients(cell, in, {}, by_reference({}));
      const auto found = outputs_and_gradients(cell, in, {}, {});
      EXPECT_EQ(found[4].scalar_type(), type);
      expect_agreement(found, expected, 2e-2);
      RnnOptions wide;
      wide.state_dtype = at::kFloat;
      const RnnResult states = rnn(cell, in.input, in.recurrent, in.bias, in.initial, {}, wide);
      EXPECT_EQ(states.states.scalar_type(), at::kFloat);
    }
  }
}

TEST(Gradients, AgreeWithFiniteDifferences) {
  for (const Cell cell : all_cells) {
    SCOPED_TRACE(to_string(cell));
    for (const bool reverse : {false, true}) {
      Example in = random_example(cell, 2, 3, 2, 3, at::kDouble, 5);
      const at::Tensor lengths = at::tensor({3, 2}, at::kLong);
      RnnOptions how;
      how.reverse = reverse;
      const auto loss = [&](const Example& at_point) {
        const RnnResult found = rnn(cell, at_point.input, at_point.recurrent, at_point.bias,
                                    at_point.initial, lengths, how);
        // h alone: gradients at c and n are of the scaled states, with m as a constant.
        return ((found.states[0] * 1.7).sin().sum() + found.last[0].pow(2).sum());
      };
      Example leaf = in;
      std::vector<at::Tensor*> tensors = {&leaf.input, &leaf.recurrent, &leaf.bias, &leaf.initial};
      for (at::Tensor* tensor : tensors) *tensor = tensor->clone().requires_grad_();
      const auto gradients = torch::autograd::grad(
          {loss(leaf)}, {leaf.input, leaf.recurrent, leaf.bias, leaf.initial});
      const torch::NoGradGuard no_grad;
      constexpr double step = 1e-6;
      for (std::size_t which = 0; which < 4; ++which) {
        at::Tensor* const fields[] = {&in.input, &in.recurrent, &in.bias, &in.initial};
        at::Tensor flat = fields[which]->view({-1});
        for (std::int64_t i = 0; i < flat.numel(); i += 1 + flat.numel() / 23) {
          // The start of slstm's m scales c and n as well, of which it is taken as independent.
          if (cell == Cell::slstm && which == 3 && i >= 3 * flat.numel() / 4) continue;
          const double value = flat[i].item<double>();
          flat[i] = value + step;
          const double above = loss(in).item<double>();
          flat[i] = value - step;
          const double below = loss(in).item<double>();
          flat[i] = value;
          EXPECT_NEAR(gradients[which].flatten()[i].item<double>(), (above - below) / (2 * step),
                      2e-8)
              << which << " " << i;
        }
      }
    }
  }
}

TEST(Options, CutClipAndCheckpointsAgreeWithTheReference) {
  const at::Tensor lengths = at::tensor({7, 0, 3, 6}, at::kLong);
  for (const Cell cell : all_cells) {
    const Example in = random_example(cell, 4, 7, 2, 19, at::kDouble);
    for (const bool reverse : {false, true}) {
      for (const int variant : {0, 1, 2, 3}) {
        SCOPED_TRACE(testing::Message() << to_string(cell) << reverse << variant);
        RnnOptions how;
        how.reverse = reverse;
        if (variant == 1) how.gradient_cut = true;
        if (variant == 2) how.gradient_clip = 0.05;
        if (variant == 3) how.forward_clip = 0.2;
        const auto expected = outputs_and_gradients(cell, in, lengths, by_reference(how));
        expect_agreement(outputs_and_gradients(cell, in, lengths, how), expected, 1e-13);
        how.checkpoint_every = 3;
        expect_agreement(outputs_and_gradients(cell, in, lengths, how), expected, 1e-13);
      }
    }
  }
}

TEST(Options, BoundsDoWhatTheySay) {
  const Example in = random_example(Cell::elman, 3, 6, 1, 8, at::kDouble);
  RnnOptions how;
  how.forward_clip = 0.3;
  const at::Tensor h =
      rnn(Cell::elman, in.input, in.recurrent, in.bias, in.initial, {}, how).states.abs();
  EXPECT_LE(h.max().item<double>(), 0.3);
  EXPECT_GT(h.eq(0.3).sum().item<std::int64_t>(), 0);
}

TEST(Identities, SequencesOfDifferentLengthsAreIndependent) {
  const std::vector<std::int64_t> lengths = {5, 1, 0, 3};
  for (const Cell cell : all_cells) {
    for (const bool reverse : {false, true}) {
      SCOPED_TRACE(testing::Message() << to_string(cell) << " " << reverse);
      const Example in = random_example(cell, 4, 5, 2, 9, at::kFloat);
      RnnOptions how;
      how.reverse = reverse;
      const RnnResult all = rnn(cell, in.input, in.recurrent, in.bias, in.initial,
                                at::tensor(lengths, at::kLong), how);
      for (std::int64_t row = 0; row < 4; ++row) {
        const std::int64_t end = lengths[static_cast<std::size_t>(row)];
        at::Tensor input = in.input.slice(0, row, row + 1).slice(1, 0, end);
        if (reverse) input = input.flip(1);
        const RnnResult one =
            rnn(cell, input, in.recurrent, in.bias, in.initial.slice(1, row, row + 1).contiguous());
        const at::Tensor states = reverse ? one.states.flip(2) : one.states;
        EXPECT_TRUE(at::equal(all.states.slice(1, row, row + 1).slice(2, 0, end), states));
        EXPECT_TRUE(at::equal(all.last.slice(1, row, row + 1), one.last));
        EXPECT_TRUE(all.states.slice(1, row, row + 1).slice(2, end).eq(0).all().item<bool>());
      }
    }
  }
}

TEST(Identities, HeadsAreIndependentAndBlocksOfOneMatrix) {
  for (const Cell cell : all_cells) {
    SCOPED_TRACE(to_string(cell));
    const std::int64_t heads = 3, dim = 5;
    const Example in = random_example(cell, 2, 4, heads, dim, at::kDouble);
    const at::Tensor together = rnn(cell, in.input, in.recurrent, in.bias, in.initial).states;
    at::Tensor dense = at::zeros({in.recurrent.size(0), 1, heads * dim, heads * dim}, at::kDouble);
    for (std::int64_t head = 0; head < heads; ++head) {
      const auto only = [head](const at::Tensor& tensor, std::int64_t axis) {
        return tensor.slice(axis, head, head + 1);
      };
      const at::Tensor alone = rnn(cell, only(in.input, 3), only(in.recurrent, 1), only(in.bias, 1),
                                   only(in.initial, 2).contiguous())
                                   .states;
      EXPECT_TRUE(at::allclose(only(together, 3), alone, 1e-13, 1e-13));
      dense.slice(2, head * dim, (head + 1) * dim)
          .slice(3, head * dim, (head + 1) * dim)
          .copy_(only(in.recurrent, 1));
    }
    const at::Tensor one = rnn(cell, in.input.flatten(3).unsqueeze(3), dense,
                               in.bias.flatten(1).unsqueeze(1), in.initial.flatten(2).unsqueeze(2))
                               .states;
    EXPECT_TRUE(at::allclose(one.flatten(3), together.flatten(3), 1e-12, 1e-12));
  }
}

TEST(Identities, AConstantInTheInputGateOfSlstmShiftsOnlyTheStabiliser) {
  EXPECT_TRUE(rc::check("b_i + k", [] {
    const auto seed = *rc::gen::inRange(0, 1000);
    const double k = *rc::gen::inRange(-40, 40);
    const Example in = random_example(Cell::slstm, 2, 6, 1, 7, at::kDouble, seed);
    at::Tensor shifted = in.bias.clone();
    shifted[0] += k;
    const at::Tensor a = rnn(Cell::slstm, in.input, in.recurrent, in.bias).states;
    const at::Tensor b = rnn(Cell::slstm, in.input, in.recurrent, shifted).states;
    RC_ASSERT(at::allclose(a.slice(0, 0, 3), b.slice(0, 0, 3), 1e-10, 1e-10));
    RC_ASSERT(at::allclose(a[3] + k, b[3], 1e-10, 1e-10));
  }));
}

TEST(Identities, StepsMakeASequence) {
  for (const Cell cell : all_cells) {
    const Example in = random_example(cell, 3, 5, 2, 6, at::kFloat);
    at::Tensor states = in.initial;
    for (std::int64_t t = 0; t < 5; ++t) {
      states = rnn_step(cell, in.input.select(1, t), in.recurrent, in.bias, states);
    }
    EXPECT_TRUE(at::equal(states, rnn(cell, in.input, in.recurrent, in.bias, in.initial).last));
  }
}

TEST(Values, NotANumberStaysInItsRowAndHead) {
  for (const Cell cell : all_cells) {
    SCOPED_TRACE(to_string(cell));
    Example in = random_example(cell, 3, 4, 2, 17, at::kFloat);
    const at::Tensor clean = rnn(cell, in.input, in.recurrent, in.bias, in.initial).states;
    in.input[1][1][0][0][2] = NAN;
    const at::Tensor h = rnn(cell, in.input, in.recurrent, in.bias, in.initial).states[0];
    EXPECT_TRUE(h[1][2].select(0, 0).isnan().all().item<bool>());
    EXPECT_TRUE(at::equal(h.select(2, 1), clean[0].select(2, 1)));
    EXPECT_TRUE(at::equal(h[0], clean[0][0]));
    EXPECT_TRUE(at::equal(h[1][0], clean[0][1][0]));
  }
}

std::string refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "accepted";
}

TEST(BadInput, IsRefusedWithOneClearLine) {
  const Example in = random_example(Cell::lstm, 2, 3, 2, 4, at::kFloat);
  const auto with = [&](const std::function<void(Example&)>& change, at::Tensor lengths = {},
                        RnnOptions how = {}) {
    Example changed = in;
    change(changed);
    return refusal([&] {
      rnn(Cell::lstm, changed.input, changed.recurrent, changed.bias, changed.initial, lengths,
          how);
    });
  };
  EXPECT_THAT(with([](Example& e) { e.input = e.input.slice(2, 0, 3); }),
              HasSubstr("input: shape [2, 3, 3, 2, 4], expected [batch, time, 4, heads, dim]"));
  EXPECT_THAT(with([](Example& e) { e.input = e.input.to(at::kInt); }), HasSubstr("input: dtype"));
  EXPECT_THAT(with([](Example& e) { e.input = e.input.slice(4, 0, 0); }), HasSubstr("no units"));
  EXPECT_THAT(with([](Example& e) { e.recurrent = e.recurrent[0]; }),
              HasSubstr("recurrent: shape [2, 4, 4], expected [4, 2, 4, 4]"));
  EXPECT_THAT(with([](Example& e) { e.recurrent = e.recurrent.to(at::kDouble); }),
              HasSubstr("recurrent: Double on cpu, expected Float"));
  EXPECT_THAT(with([](Example& e) { e.bias = e.bias[0]; }), HasSubstr("bias: shape"));
  EXPECT_THAT(with([](Example& e) { e.initial = e.initial[0]; }), HasSubstr("initial: shape"));
  const auto same = [](Example&) {};
  EXPECT_THAT(with(same, at::tensor({1, 4}, at::kLong)), HasSubstr("lengths: row 1 has 4"));
  EXPECT_THAT(with(same, at::tensor({1}, at::kLong)), HasSubstr("expected 2 integers"));
  EXPECT_THAT(with(same, at::tensor({1.0, 2.0})), HasSubstr("lengths"));
  EXPECT_THAT(with(same, {}, {.forward_clip = -1}), HasSubstr("forward_clip"));
  EXPECT_THAT(with(same, {}, {.gradient_clip = 0}), HasSubstr("gradient_clip"));
  EXPECT_THAT(with(same, {}, {.checkpoint_every = -1}), HasSubstr("checkpoint_every"));
  EXPECT_THAT(with(same, {}, {.backend = Backend::gpu_fused}), HasSubstr("needs tensors on a GPU"));
  EXPECT_THAT(with(same, {}, {.state_dtype = at::kHalf}), HasSubstr("state_dtype"));
  EXPECT_THAT(refusal([] { parse_cell("lstn"); }), HasSubstr("did you mean 'lstm'"));
  EXPECT_THAT(refusal([] { parse_backend("gpu"); }), HasSubstr("expected one of auto"));
}

}  // namespace
}  // namespace einkorn::flashrnn
