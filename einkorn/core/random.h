// Seeded, counter-based randomness: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011).
// The i-th draw of a stream is a pure function of (seed, stream, i), so results are the same on any
// number of threads and on any device.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace einkorn {

// One block of four words for a 128-bit counter and a 64-bit key.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                    std::array<std::uint32_t, 2> key);

// A sequence of draws. Copyable; satisfies UniformRandomBitGenerator.
class Random {
 public:
  explicit Random(std::uint64_t seed, std::uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  using result_type = std::uint64_t;
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()();

  double uniform();                          // [0, 1), 53 bits
  double uniform(double low, double high);   // [low, high)
  double normal();                           // mean 0, variance 1 (Box-Muller)
  double gamma(double shape);                // scale 1, shape > 0 (Marsaglia-Tsang)
  double beta(double a, double b);           // a, b > 0
  std::int64_t integer(std::int64_t bound);  // [0, bound), unbiased; bound >= 1
  std::vector<std::int64_t> permutation(std::int64_t size);

  // Another, independent sequence of the same seed: for one per thread block, row, resample, ...
  Random stream(std::uint64_t number) const { return Random(seed_, number); }

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t block_ = 0;
  std::array<std::uint64_t, 2> words_ = {};
  int left_ = 0;
  double spare_normal_ = NAN;
};

}  // namespace einkorn
