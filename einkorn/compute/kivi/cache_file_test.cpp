#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "einkorn/compute/kivi/cache_test_internal.h"
#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/nn/weights.h"

namespace einkorn::kivi {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

class KiviFile : public testing::Test {
 protected:
  void SetUp() override {
    // Tests run at the same time, each in a process of its own.
    folder_ = std::filesystem::path(testing::TempDir()) / fmt::format("kivi_file_{}", ::getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path path() const { return folder_ / "cache.safetensors"; }

  KiviCache filled(int key_bits, int value_bits, at::ScalarType type) const {
    CacheOptions options;
    options.layers = 2;
    options.batch = 2;
    options.kv_heads = 2;
    options.head_dim = 64;
    options.residual = 64;
    options.key_bits = key_bits;
    options.value_bits = value_bits;
    options.type = type;
    KiviCache cache(options);
    for (const std::int64_t layer : {0, 1}) {
      cache.prefill(layer, random_tokens(options, 333), random_tokens(options, 333), {333, 5});
      cache.append(layer, random_tokens(options, 1), random_tokens(options, 1));
    }
    return cache;
  }

  std::filesystem::path folder_;
};

TEST_F(KiviFile, ComesBackAsItWas) {
  for (const auto& [key_bits, value_bits, type] :
       {std::tuple(2, 2, at::kHalf), {3, 8, at::kFloat}, {1, 4, at::kBFloat16}}) {
    const KiviCache cache = filled(key_bits, value_bits, type);
    cache.save({path(), true});
    const KiviCache loaded = KiviCache::load(path());
    EXPECT_EQ(loaded.options().type, type);
    EXPECT_EQ(loaded.options().key_bits, key_bits);
    for (const std::int64_t layer : {0, 1}) {
      const at::Tensor q = at::randn({2, 4, 1, 64});
      EXPECT_TRUE(loaded.attend(layer, q).equal(cache.attend(layer, q)));
      EXPECT_EQ(loaded.state(layer, 1).length, 6);
    }
    EXPECT_EQ(loaded.memory().bytes(), cache.memory().bytes());
  }
}

TEST_F(KiviFile, HoldsThePublishedPacking) {
  const KiviCache cache = filled(2, 2, at::kHalf);
  cache.save({path(), false});
  const nn::NamedTensors tensors = nn::read_tensors(path());
  EXPECT_EQ(tensors.size(), 2U * 2 * 8);
  const at::Tensor codes = tensors.at("layer.1.sequence.0.key_codes");
  EXPECT_EQ(codes.sizes(), at::IntArrayRef({2, 64, 320 / 16}));
  const PackedGroups keys = {codes, tensors.at("layer.1.sequence.0.key_scale"),
                             tensors.at("layer.1.sequence.0.key_minimum")};
  const at::Tensor dense = cache.dequantize(1).first[0].narrow(1, 0, 320);
  EXPECT_TRUE(unpack_dequantize(keys, -2, 2, 32).equal(dense));
  EXPECT_THAT([&] { cache.save({path(), false}); }, ThrowsMessage<BadFile>(HasSubstr("exist")));
}

TEST_F(KiviFile, PacksAndUnpacksASequence) {
  const KiviCache cache = filled(4, 2, at::kHalf);
  KiviCache other(cache.options());
  other.unpack(1, 1, cache.pack(0, 0));
  EXPECT_EQ(other.state(1, 1).length, 334);
  EXPECT_EQ(other.state(1, 0).length, 0);
  const auto a = other.dequantize(1);
  const auto b = cache.dequantize(0);
  EXPECT_TRUE(a.first[1].equal(b.first[0]));
  EXPECT_TRUE(a.second[1].equal(b.second[0]));
  EXPECT_THAT([&] { other.unpack(1, 1, cache.pack(0, 0)); },
              ThrowsMessage<InvalidArgument>(HasSubstr("holds 334 tokens, expected an empty one")));
  PackedSequence broken = cache.pack(0, 0);
  broken.value_residual = broken.value_residual.narrow(1, 1, 3);
  EXPECT_THAT([&] { other.unpack(0, 0, broken); },
              ThrowsMessage<InvalidArgument>(HasSubstr("do not fit residual 64")));
  broken = cache.pack(0, 0);
  broken.keys.scale = broken.keys.scale.to(at::kFloat);
  EXPECT_THAT([&] { other.unpack(0, 0, broken); },
              ThrowsMessage<InvalidArgument>(HasSubstr("key_scale: expected Half")));
  EXPECT_EQ(other.state(0, 0).length, 0);
}

TEST_F(KiviFile, RefusesFilesThatDoNotFit) {
  const KiviCache cache = filled(2, 2, at::kHalf);
  cache.save({path(), false});
  std::map<std::string, std::string> metadata;
  const nn::NamedTensors tensors = nn::read_tensors(path(), &metadata);
  const auto refuses = [&](const nn::NamedTensors& changed,
                           const std::map<std::string, std::string>& words, const char* message) {
    nn::write_tensors({path(), true}, changed, words);
    EXPECT_THAT([&] { KiviCache::load(path()); }, ThrowsMessage<BadFile>(HasSubstr(message)));
  };
  const auto with_word = [&](const std::string& name, const std::string& value) {
    auto changed = metadata;
    changed[name] = value;
    return changed;
  };
  refuses(tensors, {}, "no 'format'");
  refuses(tensors, with_word("format", "einkorn.kivi 9"), "expected 'einkorn.kivi 1'");
  refuses(tensors, with_word("layers", "3"), "32 tensors, expected 48");
  refuses(tensors, with_word("layers", "many"), "layers 'many'");
  refuses(tensors, with_word("batch", "9223372036854775807"), "batch '9223372036854775807'");
  refuses(tensors, with_word("key_bits", "5"), "key_bits: expected 1, 2, 3, 4 or 8, got 5");
  refuses(tensors, with_word("key_bits", "4"), "layer 0, sequence 0");
  refuses(tensors, with_word("kv_heads", "2000000000"), "kv_heads: expected at most");
  refuses(tensors, with_word("residual", "96"), "layer 0, sequence 0");
  refuses(tensors, with_word("dtype", "float64"), "dtype 'float64'");
  nn::NamedTensors renamed = tensors;
  renamed["layer.0.sequence.0.other"] = renamed.at("layer.0.sequence.0.key_codes");
  renamed.erase("layer.0.sequence.0.key_codes");
  refuses(renamed, metadata, "no tensor 'layer.0.sequence.0.key_codes'");
  nn::NamedTensors cut = tensors;
  cut["layer.1.sequence.1.value_residual"] = at::zeros({2, 3, 64}, at::kHalf);
  refuses(cut, metadata, "layer 1, sequence 1");
}

TEST_F(KiviFile, RefusesBytesThatAreCutOrChanged) {
  filled(2, 2, at::kHalf).save({path(), false});
  const std::vector<std::byte> whole = read_content(path());
  const auto refuses = [&](const std::vector<std::byte>& content) {
    write_content({path(), true}, content);
    EXPECT_THROW(KiviCache::load(path()), BadFile);
  };
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{7}, std::size_t{100}, whole.size() / 2, whole.size() - 1}) {
    refuses({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)});
  }
  std::vector<std::byte> changed = whole;
  changed[0] ^= std::byte{0x10};  // the header's length
  refuses(changed);
}

}  // namespace
}  // namespace einkorn::kivi
