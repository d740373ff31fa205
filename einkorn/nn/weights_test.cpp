#include "einkorn/nn/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "einkorn/core/error.h"

namespace einkorn::nn {
namespace {

using torch::Tensor;

TEST(Weights, EveryTypeSurvivesAFile) {
  const auto path =
      std::filesystem::temp_directory_path() /
      fmt::format("einkorn-weights-{}", testing::UnitTest::GetInstance()->random_seed());
  NamedTensors tensors;
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong,
                                    at::kInt, at::kShort, at::kChar, at::kByte}) {
    // Not dense: a transposed view.
    tensors.emplace(c10::toString(type), (torch::arange(12).view({3, 4}).t()).to(type));
  }
  tensors.emplace("empty", torch::zeros({0, 3}));
  tensors.emplace("scalar", torch::tensor(2.5));
  write_tensors({path}, tensors, {{"kind", "test"}});
  std::map<std::string, std::string> metadata;
  const NamedTensors read = read_tensors(path, &metadata);
  EXPECT_EQ(metadata.at("kind"), "test");
  ASSERT_EQ(read.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(read.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(torch::equal(read.at(name), tensor)) << name;
  }
  EXPECT_THROW(write_tensors({path}, tensors), BadFile);
  std::filesystem::remove(path);
  EXPECT_THROW(to_entry(torch::zeros({1}, at::kComplexFloat)), InvalidArgument);
}

TEST(Weights, LoadIntoAModuleConvertsAndNamesMisfits) {
  torch::nn::Linear layer(2, 3);
  const Tensor weight = torch::randn({3, 2}, at::kDouble);
  load_state(*layer, {{"weight", weight}, {"bias", torch::ones({3}, at::kHalf)}}, "file");
  EXPECT_TRUE(torch::equal(layer->weight, weight.to(at::kFloat)));
  EXPECT_EQ(layer->bias.sum().item<float>(), 3);
  try {
    load_state(*layer, {{"weight", torch::zeros({2, 3})}, {"more", weight}}, "file");
    ADD_FAILURE();
  } catch (const BadFile& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("1 missing (bias)"));
    EXPECT_THAT(error.what(), testing::HasSubstr("1 unexpected (more)"));
    EXPECT_THAT(error.what(), testing::HasSubstr("weight [2, 3], expected [3, 2]"));
  }
}

}  // namespace
}  // namespace einkorn::nn
