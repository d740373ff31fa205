#include "einkorn/convolution/inceptionnext/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "einkorn/convolution/inceptionnext/folded_network.h"
#include "einkorn/convolution/inceptionnext/mlp_kernels.h"
#include "einkorn/convolution/inceptionnext/network_file.h"
#include "einkorn/convolution/inceptionnext/receptive_field.h"
#include "einkorn/convolution/inceptionnext/reference_values_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/isa.h"

namespace einkorn::inceptionnext {
namespace {

using torch::Tensor;

struct Published {
  const char* name;
  std::int64_t parameters;
  std::int64_t macs;
};

constexpr Published published[] = {
    {"atto", 4156520, 503035040},        {"tiny", 28055680, 4188634272},
    {"small", 49374016, 8355682080},     {"base", 86672136, 14841072000},
    {"base-384", 86672136, 43602524160}, {"convnext-tiny", 28589128, 4455531264}};

TEST(NetworkConfig, CountsOfTheSpecification) {
  for (const Published& model : published) {
    const NetworkConfig config = named_config(model.name);
    const NetworkCount found = count(config, config.resolution, config.resolution);
    EXPECT_EQ(found.parameters, model.parameters) << model.name;
    EXPECT_EQ(found.macs, model.macs) << model.name;
  }
}

TEST(NetworkConfig, CountsOfThePartialDepthwiseVariants) {
  NetworkConfig config = named_config("convnext-tiny");
  const auto expect = [&](std::int64_t kernel, double share, std::int64_t parameters,
                          std::int64_t macs) {
    config.kernel_size = kernel;
    config.convolved_share = share;
    EXPECT_EQ(count(config, 224, 224).parameters, parameters) << kernel << " " << share;
    EXPECT_EQ(count(config, 224, 224).macs, macs) << kernel << " " << share;
  };
  expect(5, 1, 28430152, 4404050688);
  expect(3, 1, 28324168, 4369730304);
  expect(3, 0.125, 28266208, 4352838240);
}

TEST(NetworkConfig, StagesOfTinyAndAtto) {
  const auto stages = count(named_config("tiny"), 224, 224).stages;
  const std::int64_t expected[4][8] = {{56, 96, 12, 60, 384, 408, 1166592, 74904},
                                       {28, 192, 24, 120, 768, 816, 583296, 297264},
                                       {14, 384, 48, 240, 1536, 1632, 291648, 1184352},
                                       {7, 768, 96, 480, 2304, 3264, 145824, 3547584}};
  const std::int64_t block_macs[] = {232377600, 231794304, 231502656, 173554080};
  for (std::size_t i = 0; i < 4; ++i) {
    const StageCount& stage = stages[i];
    EXPECT_THAT(
        (std::vector<std::int64_t>{stage.height, stage.channels, stage.branch_channels,
                                   stage.identity_channels, stage.hidden, stage.mixer_parameters,
                                   stage.mixer_macs, stage.block_parameters}),
        testing::ElementsAreArray(expected[i]));
    EXPECT_EQ(stage.block_macs, block_macs[i]);
  }
  const auto atto = count(named_config("atto"), 224, 224).stages;
  const std::int64_t atto_parameters[] = {13420, 52440, 207280, 619040};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(atto[i].branch_channels, atto[i].identity_channels);
    EXPECT_EQ(atto[i].block_parameters, atto_parameters[i]);
  }
}

std::int64_t parameters_of(const torch::nn::Module& module) {
  std::int64_t total = 0;
  for (const Tensor& parameter : module.parameters()) total += parameter.numel();
  return total;
}

TEST(Network, HasTheCountedParametersUnderTimmsNames) {
  for (const char* name : {"atto", "tiny", "convnext-tiny", "toy"}) {
    const Network network(named_config(name));
    EXPECT_EQ(parameters_of(*network), count(network->config(), 224, 224).parameters) << name;
  }
  NetworkConfig partial = named_config("convnext-tiny");
  partial.kernel_size = 3;
  partial.convolved_share = 0.125;
  EXPECT_EQ(parameters_of(*Network(partial)), 28266208);

  const nn::NamedTensors tiny = nn::state_of(*Network(named_config("tiny")));
  const auto shape = [&](const char* name) {
    const auto found = tiny.find(name);
    return found == tiny.end() ? std::vector<std::int64_t>{-1} : found->second.sizes().vec();
  };
  using Shape = std::vector<std::int64_t>;
  EXPECT_EQ(shape("stem.0.weight"), (Shape{96, 3, 4, 4}));
  EXPECT_EQ(shape("stem.1.running_var"), (Shape{96}));
  EXPECT_EQ(shape("stem.1.num_batches_tracked"), Shape{});
  EXPECT_EQ(shape("stages.1.downsample.0.weight"), (Shape{96}));
  EXPECT_EQ(shape("stages.1.downsample.1.weight"), (Shape{192, 96, 2, 2}));
  EXPECT_EQ(shape("stages.2.blocks.8.token_mixer.dwconv_hw.weight"), (Shape{48, 1, 3, 3}));
  EXPECT_EQ(shape("stages.2.blocks.8.token_mixer.dwconv_w.weight"), (Shape{48, 1, 1, 11}));
  EXPECT_EQ(shape("stages.2.blocks.8.token_mixer.dwconv_h.weight"), (Shape{48, 1, 11, 1}));
  EXPECT_EQ(shape("stages.2.blocks.8.token_mixer.dwconv_h.bias"), (Shape{48}));
  EXPECT_EQ(shape("stages.3.blocks.0.mlp.fc1.weight"), (Shape{2304, 768, 1, 1}));
  EXPECT_EQ(shape("stages.3.blocks.0.norm.running_mean"), (Shape{768}));
  EXPECT_EQ(shape("stages.3.blocks.0.gamma"), (Shape{768}));
  EXPECT_EQ(shape("head.fc1.weight"), (Shape{2304, 768}));
  EXPECT_EQ(shape("head.norm.weight"), (Shape{2304}));
  EXPECT_EQ(shape("head.fc2.weight"), (Shape{1000, 2304}));
  // timm's state_dict of inceptionnext_tiny: 5 + 2 of the stem, 7 of each of 3 downsamplings, 16 of
  // each of 18 blocks, 6 of the head.
  EXPECT_EQ(tiny.size(), 7 + 3 * 7 + 18 * 16 + 6);
}

// The block of case B: 8 channels, one a branch, 3 x 3 pixels, hidden 16.
Network case_b() {
  NetworkConfig config;
  config.depths = {1};
  config.dims = {8};
  config.mlp_ratios = {2};
  config.branch_ratio = 0.125;
  config.band_size = 11;
  config.classes = 2;
  Network network(config);
  network->eval();
  const torch::NoGradGuard no_grad;
  Block& block = network->stages[0]->blocks[0];
  const MixerWeights mixer = reference_mixer(1, 11);
  const MixerWeights own = block->inception->weights();
  own.square.copy_(mixer.square);
  own.wide.copy_(mixer.wide);
  own.tall.copy_(mixer.tall);
  own.square_bias.copy_(mixer.square_bias);
  own.wide_bias.copy_(mixer.wide_bias);
  own.tall_bias.copy_(mixer.tall_bias);
  const Tensor c = torch::arange(8);
  block->norm->running_mean.copy_(c / 16.0);
  block->norm->running_var.copy_(1 + c / 8.0);
  block->norm->weight.copy_(1 + c / 32.0);
  block->norm->bias.copy_(-c / 64.0);
  const Tensor hidden = torch::arange(16);
  block->mlp->fc1->weight.copy_(
      (((3 * hidden.view({-1, 1}) + 2 * c).remainder(7) - 3) / 8.0).view({16, 8, 1, 1}));
  block->mlp->fc1->bias.copy_(hidden / 32.0);
  block->mlp->fc2->weight.copy_(
      (((2 * c.view({-1, 1}) + 5 * hidden).remainder(9) - 4) / 8.0).view({8, 16, 1, 1}));
  block->mlp->fc2->bias.copy_(-c / 32.0);
  block->gamma.fill_(0.5);
  return network;
}

void expect_case_b(const Tensor& y, double tolerance) {
  const Tensor out = y.detach().to(at::kDouble);
  const Tensor first =
      torch::tensor({-0.7048991042, 0.3168256577, -0.3590355251, 0.3951115155, 0.517100459,
                     0.4216293926, 0.4600855821, 0.2316772573, 0.4264870668},
                    at::kDouble);
  const Tensor last =
      torch::tensor({0.3571188843, -0.6430743255, 0.1808555244, -1.2821177521, 0.4018386495,
                     -0.9845180721, -0.1239979415, 0.2251062246, 0.1661808839},
                    at::kDouble);
  EXPECT_LE((out[0][0].flatten() - first).abs().max().item<double>(), tolerance);
  EXPECT_LE((out[0][7].flatten() - last).abs().max().item<double>(), tolerance);
  EXPECT_NEAR(out.sum().item<double>(), -4.744439577310317, 72 * tolerance);
  EXPECT_NEAR(out.square().sum().item<double>(), 21.441922499752707, 150 * tolerance);
}

TEST(Network, CaseBOfTheSpecification) {
  Network network = case_b();
  const Tensor x = reference_images(8, 3, 3);
  network->to(at::kDouble);
  Block& block = network->stages[0]->blocks[0];
  // Printed to ten digits.
  expect_case_b(block->forward(x.to(at::kDouble)), 5.1e-11);
  expect_case_b(block->forward(x.to(at::kDouble).contiguous(at::MemoryFormat::ChannelsLast)),
                5.1e-11);
  network->to(at::kFloat);
  expect_case_b(block->forward(x), 2e-6);
}

class FoldedAtLevel : public testing::TestWithParam<Isa> {};

// Values that GELU has at single points, and a sweep against erfc in f64.
TEST_P(FoldedAtLevel, GeluOfTheProductIsExactToOneMillionth) {
  const ScopedIsa level(GetParam());
  std::vector<float> inputs = {-3, -1, -0.5, 0.5, 1, 3, 0, -0.0f, 100, -100};
  for (int i = -8000; i <= 8000; ++i) inputs.push_back(static_cast<float>(i) / 1000);
  const auto rows = static_cast<std::int64_t>(inputs.size());
  const GemmKernels& kernels = gemm_kernels();
  const float one = 1;
  const float zero = 0;
  std::vector<float> packed(static_cast<std::size_t>(kernels.panel_width));
  kernels.pack(&one, 1, 1, packed.data());
  std::vector<float> outputs(inputs.size());
  kernels.multiply({inputs.data(), 1, 1}, rows, {packed.data(), &zero, 1}, 0, 1, Epilogue::gelu,
                   {outputs.data(), 1, nullptr});
  const double expected[] = {-0.00404969409489031, -0.15865525393145707, -0.15426876936299347,
                             0.3457312306370065,   0.8413447460685429,   2.99595030590511};
  for (std::size_t i = 0; i < 6; ++i) EXPECT_NEAR(outputs[i], expected[i], 3e-7);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const double x = inputs[i];
    const double exact = 0.5 * x * std::erfc(-x * std::sqrt(0.5));
    EXPECT_NEAR(outputs[i], exact, 1e-6 * std::max(1.0, std::abs(exact))) << x;
  }
}

TEST_P(FoldedAtLevel, ProductReadsRowsFromTwoPlaces) {
  const ScopedIsa level(GetParam());
  torch::manual_seed(3);
  for (const std::int64_t pixels : {1, 3, 5, 6, 13, 14, 15, 56, 57, 500}) {
    for (const auto& [first, second, hidden] : std::vector<std::array<std::int64_t, 3>>{
             {60, 36, 384}, {7, 9, 33}, {10, 0, 31}, {0, 12, 64}, {1, 1, 1}, {17, 15, 65}}) {
      const std::int64_t channels = first + second;
      // Identity channels lie in rows of `channels`, as in a block's input.
      Tensor x = torch::randn({pixels, channels});
      const Tensor branches = torch::randn({pixels, std::max<std::int64_t>(second, 1)});
      const Tensor w1 = torch::randn({hidden, channels}) / 4;
      const Tensor b1 = torch::randn({hidden});
      const Tensor w2 = torch::randn({channels, hidden}) / 4;
      const Tensor b2 = torch::randn({channels});
      const auto f64 = [](const Tensor& tensor) { return tensor.to(at::kDouble); };
      const Tensor rows = torch::cat({x.narrow(1, 0, first), branches.narrow(1, 0, second)}, 1);
      const Tensor inner = at::linear(f64(rows), f64(w1), f64(b1));
      const Tensor expected = f64(x) + at::linear(at::gelu(inner), f64(w2), f64(b2));
      const Tensor magnitude =
          f64(x).abs() +
          at::linear(at::linear(f64(rows).abs(), f64(w1).abs(), f64(b1).abs()) * 1.2 + 1,
                     f64(w2).abs(), f64(b2).abs());

      const GemmKernels& kernels = gemm_kernels();
      const auto pack = [&](const Tensor& weight) {
        const std::int64_t panels =
            (weight.size(0) + kernels.panel_width - 1) / kernels.panel_width;
        Tensor packed = torch::empty({panels * kernels.panel_width * weight.size(1)});
        kernels.pack(weight.const_data_ptr<float>(), weight.size(0), weight.size(1),
                     packed.mutable_data_ptr<float>());
        return packed;
      };
      const Tensor packed1 = pack(w1);
      const Tensor packed2 = pack(w2);
      const RowSources sources = {x.const_data_ptr<float>(),        channels, first,
                                  branches.const_data_ptr<float>(), second,   second};
      run_folded_mlp(sources, pixels,
                     {packed1.const_data_ptr<float>(), b1.const_data_ptr<float>(), hidden},
                     {packed2.const_data_ptr<float>(), b2.const_data_ptr<float>(), channels},
                     x.mutable_data_ptr<float>());
      const double terms = static_cast<double>(channels + hidden + 20);
      EXPECT_TRUE((f64(x) - expected).abs().le(magnitude * terms * 0x1p-24).all().item<bool>())
          << pixels << " " << first << " " << second << " " << hidden;
    }
  }
}

// Norms as after training: no folded quantity is 0 or 1.
Network trained_like(NetworkConfig config) {
  torch::manual_seed(5);
  config.layer_scale = 0.5;
  Network network(config);
  const torch::NoGradGuard no_grad;
  for (auto& item : network->named_parameters()) {
    if (item.value().dim() == 1) item.value().add_(torch::randn_like(item.value()) * 0.3);
    if (item.value().dim() == 4) item.value().mul_(8);
  }
  for (auto& item : network->named_buffers()) {
    if (item.key().find("running_mean") != std::string::npos) item.value().normal_(0, 0.5);
    if (item.key().find("running_var") != std::string::npos) item.value().uniform_(0.5, 2);
  }
  network->eval();
  return network;
}

std::vector<NetworkConfig> small_configs() {
  NetworkConfig inception = named_config("toy");
  inception.in_channels = 3;
  NetworkConfig depthwise = inception;
  depthwise.mixer = Mixer::depthwise;
  NetworkConfig partial = depthwise;
  partial.convolved_share = 0.25;
  NetworkConfig identity = inception;
  identity.mixer = Mixer::identity;
  NetworkConfig odd = inception;
  odd.dims = {23, 41, 50};
  odd.branch_ratio = 0.3;
  odd.mlp_ratios = {1.5, 2, 3};
  return {inception, depthwise, partial, identity, odd};
}

double relative_difference(const Tensor& a, const Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

TEST_P(FoldedAtLevel, FoldedNetworksAgreeToAHundredThousandth) {
  const ScopedIsa level(GetParam());
  for (const NetworkConfig& config : small_configs()) {
    const torch::NoGradGuard no_grad;
    Network network = trained_like(config);
    const FoldedNetwork folded(*network);
    for (const auto& size : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {32, 32}, {37, 50}, {64, 19}, {16, 16}}) {
      const Tensor images = torch::randn({3, 3, size.first, size.second});
      EXPECT_LE(relative_difference(folded.forward(images), network->forward(images)), 1e-5)
          << to_string(config.mixer) << " " << size.first << "x" << size.second;
    }
    const Tensor images = torch::randn({2, 3, 32, 32});
    const auto expected = network->features(images);
    const auto found = folded.features(images);
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_LE(relative_difference(found[i], expected[i]), 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, FoldedAtLevel, testing::ValuesIn(supported_isas()),
                         [](const auto& level) { return to_string(level.param); });

TEST(FoldedNetwork, OtherTypesGoThroughTorchsProducts) {
  const torch::NoGradGuard no_grad;
  Network network = trained_like(small_configs()[0]);
  FoldedNetwork folded(*network);
  const Tensor images = torch::randn({2, 3, 32, 32});
  const Tensor expected = network->forward(images);
  folded.to(at::kCPU, at::kDouble);
  EXPECT_LE(relative_difference(folded.forward(images.to(at::kDouble)), expected.to(at::kDouble)),
            1e-5);
  folded.to(at::kCPU, at::kBFloat16);
  EXPECT_LE(relative_difference(folded.forward(images.to(at::kBFloat16)).to(at::kFloat), expected),
            0.1);
}

TEST(FoldedNetwork, RefusesWhatCannotBeFolded) {
  NetworkConfig layer_norm = small_configs()[1];
  layer_norm.frame = Frame::convnext;
  EXPECT_THROW(FoldedNetwork(*Network(layer_norm)), InvalidArgument);
  Network negative = trained_like(small_configs()[0]);
  negative->stages[0]->blocks[0]->norm->running_var.fill_(-1);
  EXPECT_THROW((FoldedNetwork(*negative)), InvalidArgument);
}

TEST(Network, GivesFeaturesAtTheStagesStrides) {
  NetworkConfig config = named_config("atto");
  config.in_channels = 5;
  config.classes = 7;
  Network network(config);
  network->eval();
  const torch::NoGradGuard no_grad;
  const auto features = network->features(torch::randn({2, 5, 70, 101}));
  ASSERT_EQ(features.size(), 4);
  const std::int64_t heights[] = {17, 8, 4, 2};
  const std::int64_t widths[] = {25, 12, 6, 3};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(features[i].sizes(), (at::IntArrayRef{2, config.dims[i], heights[i], widths[i]}));
  }
  EXPECT_EQ(network->forward(torch::randn({1, 5, 32, 32})).sizes(), (at::IntArrayRef{1, 7}));
  EXPECT_THROW(network->forward(torch::randn({1, 5, 31, 32})), InvalidArgument);
  EXPECT_THROW(network->forward(torch::randn({1, 3, 32, 32})), InvalidArgument);
}

TEST(Network, DropsWholeBranchesAtTheRateOfTheBlock) {
  NetworkConfig config = small_configs()[0];
  config.depths = {1, 1, 3};
  config.drop_path = 0.8;
  Network network = trained_like(config);
  network->train();
  // The last block drops 80 % of its images, and scales the others by five.
  Block& last = network->stages[2]->blocks[2];
  const torch::NoGradGuard no_grad;
  const Tensor x = torch::randn({4000, 96, 1, 1});
  const Tensor branch = last->forward(x) - x;
  const double kept = branch.abs().amax({1, 2, 3}).gt(0).to(at::kDouble).mean().item<double>();
  EXPECT_NEAR(kept, 0.2, 5 * std::sqrt(0.16 / 4000));
  // The first drops none.
  Block& first = network->stages[0]->blocks[0];
  const Tensor y = torch::randn({100, 24, 2, 2});
  EXPECT_TRUE((first->forward(y) - y).abs().amax({1, 2, 3}).gt(0).all().item<bool>());
}

TEST(NetworkConfig, RefusesWhatCannotBeBuilt) {
  const auto refused = [](const std::function<void(NetworkConfig&)>& change,
                          const std::string& words) {
    NetworkConfig config = named_config("tiny");
    change(config);
    try {
      check(config);
      ADD_FAILURE() << "accepted; expected: " << words;
    } catch (const InvalidArgument& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(words));
    }
  };
  refused([](auto& c) { c.band_size = 10; }, "band size: expected an odd size >= 1, got 10");
  refused([](auto& c) { c.square_size = 2; }, "square size: expected an odd size");
  refused([](auto& c) { c.branch_ratio = 0.01; }, "branch ratio 0.01 of 96 channels leaves none");
  refused([](auto& c) { c.branch_ratio = 0.5; }, "takes more than all of 96 channels");
  refused([](auto& c) { c.classes = 0; }, "classes: expected a number >= 1, got 0");
  refused([](auto& c) { c.in_channels = 0; }, "input channels");
  refused([](auto& c) { c.depths = {1, 2}; }, "as many depths (2)");
  refused([](auto& c) { c.drop_path = 1; }, "drop path");
  EXPECT_THROW(named_config("tinny"), InvalidArgument);
  EXPECT_EQ(named_config("inceptionnext_base_384").resolution, 384);
  EXPECT_EQ(named_config("inception_next_atto").band_size, 9);
  EXPECT_THROW(count(named_config("tiny"), 16, 224), InvalidArgument);
}

class NetworkFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              fmt::format("einkorn-network-{}", testing::UnitTest::GetInstance()->random_seed());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path file(const char* name) const { return folder_ / name; }

 private:
  std::filesystem::path folder_;
};

TEST_F(NetworkFiles, KeepNetworksAndTheirKind) {
  const torch::NoGradGuard no_grad;
  const NetworkConfig config = small_configs()[4];
  Network network = trained_like(config);
  save_network({file("a.safetensors")}, *network);
  const NetworkFile read = read_network_file(file("a.safetensors"));
  ASSERT_TRUE(read.config);
  EXPECT_FALSE(read.folded);
  EXPECT_EQ(read.config->dims, config.dims);
  EXPECT_EQ(read.config->branch_ratio, config.branch_ratio);
  Network other(*read.config);
  load_weights(*other, read);
  other->eval();
  const Tensor images = torch::randn({2, 3, 32, 40});
  EXPECT_TRUE(torch::equal(other->forward(images), network->forward(images)));

  const FoldedNetwork folded(*network);
  save_folded({file("b.safetensors")}, folded);
  const NetworkFile read_folded = read_network_file(file("b.safetensors"));
  EXPECT_TRUE(read_folded.folded);
  const FoldedNetwork again(*read_folded.config, read_folded.tensors, read_folded.path);
  EXPECT_TRUE(torch::equal(again.forward(images), folded.forward(images)));
}

TEST_F(NetworkFiles, TransferKeepsAForeignClassifierAndAdaptsTheStem) {
  const torch::NoGradGuard no_grad;
  NetworkConfig config = small_configs()[0];
  Network source = trained_like(config);
  save_network({file("a.safetensors")}, *source);
  const NetworkFile read = read_network_file(file("a.safetensors"));
  config.classes = 4;
  config.in_channels = 1;
  Network grey(config);
  EXPECT_THROW(load_weights(*grey, read), BadFile);
  const Tensor own = grey->head->named_parameters()["fc2.weight"].clone();
  load_weights(*grey, read, Fit::transfer);
  EXPECT_TRUE(torch::equal(grey->head->named_parameters()["fc2.weight"], own));
  // A grey image looks to the one as three equal channels do to the other.
  grey->eval();
  const Tensor image = torch::randn({1, 1, 32, 32});
  EXPECT_LE(relative_difference(grey->features(image).back(),
                                source->features(image.expand({1, 3, 32, 32})).back()),
            1e-5);
  config.in_channels = 7;
  Network seven(config);
  load_weights(*seven, read, Fit::transfer);
  EXPECT_NEAR(seven->stem->weight.select(1, 3).sum().item<double>() * 7 / 3,
              source->stem->weight.select(1, 0).sum().item<double>(), 1e-3);
}

TEST_F(NetworkFiles, ErrorsNameWhatIsWrong) {
  Network network(small_configs()[0]);
  nn::NamedTensors state = nn::state_of(*network);
  const auto expect_bad = [&](const nn::NamedTensors& tensors, const std::string& words) {
    nn::write_tensors({file("bad.safetensors"), true}, tensors);
    try {
      load_weights(*network, read_network_file(file("bad.safetensors")));
      ADD_FAILURE() << "accepted; expected: " << words;
    } catch (const BadFile& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(words));
    }
  };
  nn::NamedTensors changed = state;
  changed.erase("head.fc1.bias");
  expect_bad(changed, "1 missing (head.fc1.bias)");
  changed = state;
  changed.emplace("extra", torch::zeros({1}));
  expect_bad(changed, "1 unexpected (extra)");
  changed = state;
  changed["stem.0.bias"] = torch::zeros({3});
  expect_bad(changed, "stem.0.bias [3], expected [24]");
  changed = state;
  changed["stem.0.bias"] = torch::full({24}, NAN);
  expect_bad(changed, "not finite");
}

TEST(ReceptiveField, IsWhereTheMiddlePixelLooks) {
  // Two 3 x 3 mixers and 4 x 4 patches: no pixel further than the patches of a 5 x 5 neighbourhood.
  NetworkConfig config = small_configs()[1];
  config.depths = {2};
  config.dims = {16};
  config.mlp_ratios = {2};
  config.kernel_size = 3;
  Network network = trained_like(config);
  const Tensor field = effective_receptive_field(*network, torch::randn({4, 3, 36, 36}));
  EXPECT_EQ(field.sizes(), (at::IntArrayRef{36, 36}));
  EXPECT_EQ(field.max().item<float>(), 1);
  const Tensor inside = field.slice(0, 8, 28).slice(1, 8, 28);
  EXPECT_TRUE(inside.gt(0).all().item<bool>());
  EXPECT_FLOAT_EQ(inside.sum().item<float>(), field.sum().item<float>());
  EXPECT_LE(area_with_share(field, 0.99), 21.0 * 21 / (36 * 36) + 1e-12);
  EXPECT_EQ(area_with_share(torch::ones({5, 5}), 1), 1);

  const auto kernels = spatial_kernels(*Network(named_config("atto")));
  EXPECT_EQ(kernels.size(), 12 * 3);
  EXPECT_EQ(kernels.at("stages.2.blocks.5.dwconv_w").sizes(), (at::IntArrayRef{40, 1, 9}));
}

}  // namespace
}  // namespace einkorn::inceptionnext
