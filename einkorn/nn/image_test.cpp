#include "einkorn/nn/image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "einkorn/core/error.h"
#include "einkorn/core/tensor.h"

namespace einkorn::nn {
namespace {

using torch::Tensor;

std::filesystem::path temporary(const std::string& name) {
  return std::filesystem::temp_directory_path() /
         fmt::format("einkorn-image-{}-{}", testing::UnitTest::GetInstance()->random_seed(), name);
}

// A PNG of 2 x 1 pixels, (255, 0, 0) and (0, 128, 255), as Python's zlib packs it.
const unsigned char small_png[] = {
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44,
    0x52, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x01, 0x08, 0x02, 0x00, 0x00, 0x00, 0x7b,
    0x40, 0xe8, 0xdd, 0x00, 0x00, 0x00, 0x0f, 0x49, 0x44, 0x41, 0x54, 0x78, 0x9c, 0x63, 0xf8,
    0xcf, 0xc0, 0xc0, 0xd0, 0xf0, 0x1f, 0x00, 0x08, 0x00, 0x02, 0x7f, 0x9c, 0x45, 0x40, 0x4e,
    0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82};

std::filesystem::path write_bytes(const std::string& name, const void* bytes, std::size_t size) {
  const auto path = temporary(name);
  std::ofstream(path, std::ios::binary)
      .write(static_cast<const char*>(bytes), static_cast<std::streamsize>(size));
  return path;
}

TEST(Image, ReadsPngPnmAndNpyAlike) {
  const Tensor expected = torch::tensor({255, 0, 0, 0, 128, 255}).view({1, 2, 3}).to(at::kByte);
  const auto png = write_bytes("a.png", small_png, sizeof small_png);
  const std::string pnm_text("P6\n2 1\n255\n\xff\0\0\0\x80\xff", 17);
  const auto pnm = write_bytes("a.ppm", pnm_text.data(), pnm_text.size());
  const auto npy = temporary("a.npy");
  write_tensor({npy}, expected);
  for (const auto& path : {png, pnm, npy}) {
    EXPECT_TRUE(torch::equal(read_image(path), expected.permute({2, 0, 1}))) << path;
    std::filesystem::remove(path);
  }
}

TEST(Image, RefusesWhatIsNoImage) {
  const std::string text = "no image";
  const auto path = write_bytes("b.png", text.data(), text.size());
  EXPECT_THROW(read_image(path), BadFile);
  const auto cut = write_bytes("c.png", small_png, sizeof small_png - 30);
  EXPECT_THROW(read_image(cut), BadFile);
  const auto floats = temporary("d.npy");
  write_tensor({floats}, torch::zeros({2, 2, 3}));
  EXPECT_THROW(read_image(floats), BadFile);
  EXPECT_THROW(read_image(temporary("missing.png")), BadFile);
  for (const auto& made : {path, cut, floats}) std::filesystem::remove(made);
}

TEST(Image, PreprocessingKeepsTheMiddleAndNormalises) {
  // Constant images stay constant; channels have their own mean and deviation.
  const Tensor grey = torch::full({3, 300, 500}, 128, at::kByte);
  const Preprocessing options;
  const Tensor constant = preprocess(grey, options);
  ASSERT_EQ(constant.sizes(), (at::IntArrayRef{3, 224, 224}));
  for (std::int64_t c = 0; c < 3; ++c) {
    const auto at = static_cast<std::size_t>(c);
    const double expected = (128.0 / 255 - options.mean[at]) / options.deviation[at];
    EXPECT_NEAR(constant[c].min().item<double>(), expected, 1e-5);
    EXPECT_NEAR(constant[c].max().item<double>(), expected, 1e-5);
  }
  // Without a change of size, the crop is the middle of the image.
  Preprocessing crop;
  crop.resolution = 8;
  crop.crop_share = 0.5;
  crop.mean = {0, 0, 0};
  crop.deviation = {1, 1, 1};
  const Tensor ramp = torch::arange(16 * 20).remainder(251).view({1, 16, 20}).to(at::kByte);
  const Tensor found = preprocess(ramp.expand({3, 16, 20}), crop);
  EXPECT_TRUE(torch::allclose(found[1] * 255,
                              ramp[0].slice(0, 4, 12).slice(1, 6, 14).to(at::kFloat), 0, 1e-3));
  EXPECT_THROW(preprocess(torch::zeros({1, 4, 4}, at::kByte), options), InvalidArgument);
  EXPECT_THROW(preprocess(torch::zeros({3, 4, 4}), options), InvalidArgument);
  EXPECT_THROW(preprocess(torch::zeros({3, 1, 100000}, at::kByte), options), InvalidArgument);
}

}  // namespace
}  // namespace einkorn::nn
