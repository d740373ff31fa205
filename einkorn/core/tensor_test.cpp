#include "einkorn/core/tensor.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "einkorn/core/error.h"

namespace einkorn {
namespace {

class TensorFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() / ("einkorn-tensor-" + std::to_string(::getpid()));
    std::filesystem::create_directory(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_;
};

TEST_F(TensorFiles, RoundTripOfEachDtypeAndLayout) {
  for (const auto type : {at::kBool, at::kByte, at::kChar, at::kShort, at::kInt, at::kLong,
                          at::kHalf, at::kFloat, at::kDouble, at::kComplexFloat}) {
    const at::Tensor tensor = at::randint(0, 2, {3, 4, 5}).to(type).transpose(0, 2);
    const auto path = folder_ / "t.npy";
    write_tensor({path, true}, tensor);
    const at::Tensor back = read_tensor(path);
    EXPECT_EQ(back.scalar_type(), type);
    EXPECT_TRUE(at::equal(back, tensor)) << at::toString(type);
  }
}

TEST_F(TensorFiles, ZeroSizesAndScalars) {
  for (const auto& shape : std::vector<std::vector<std::int64_t>>{{}, {0}, {3, 0, 2}}) {
    const auto path = folder_ / "t.npy";
    write_tensor({path, true}, at::zeros(shape));
    EXPECT_EQ(read_tensor(path).sizes().vec(), shape);
  }
}

TEST_F(TensorFiles, ColumnMajorArraysComeBackRowMajor) {
  NpyArray array = npy_from_doubles(std::vector<double>{1, 2, 3, 4, 5, 6}, {2, 3});
  array.fortran_order = true;
  const at::Tensor tensor = to_tensor(array, "memory");
  const at::Tensor expected =
      at::tensor(std::vector<double>{1, 3, 5, 2, 4, 6}, at::kDouble).view({2, 3});
  EXPECT_TRUE(at::equal(tensor, expected));
}

TEST_F(TensorFiles, AnArchiveWithSeveralArraysWantsAName) {
  const auto path = folder_ / "t.npz";
  const NpyArray one = npy_from_doubles(std::vector<double>{1}, {1});
  write_npz({path, true}, {{"a", one}, {"b", one}});
  EXPECT_THROW(read_tensor(path), BadFile);
  EXPECT_THROW(read_tensor(path, "c"), BadFile);
  EXPECT_EQ(read_tensor(path, "a").numel(), 1);
}

TEST(Tensor, RequireDenseNamesTheArgument) {
  try {
    require_dense(at::Tensor(), "weights");
    FAIL() << "an undefined tensor passed";
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(), "weights: no tensor given");
  }
  EXPECT_THROW(require_dense(at::eye(3).to_sparse(), "weights"), InvalidArgument);
  EXPECT_NO_THROW(require_dense(at::eye(3), "weights"));
}

}  // namespace
}  // namespace einkorn
