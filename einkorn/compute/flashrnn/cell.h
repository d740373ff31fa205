// The cells and how many gates and states each has.
#pragma once

#include <cstdint>

namespace einkorn::flashrnn {

// Orders of gates and states:
//   lstm   gates i, f, z, o; states h, c
//   gru    recurrent gates g, r, z; input gates r, z, n; biases g, r, z, n; state h
//          (g is the recurrent part of the candidate n, which r scales: cuDNN's and torch's GRU)
//   elman  one gate; state h; tanh
//   slstm  gates i, f, z, o with exponential i; states h, c, n (normaliser), m (stabiliser)
enum class Cell { lstm, gru, elman, slstm };

// The counts G_r, G_w, G_t, G_i and S of the paper (section 3).
struct CellShape {
  std::int64_t recurrent_gates;
  std::int64_t input_gates;
  std::int64_t biases;
  // Kept for the gradient: lstm i, f, z, o; gru g, r, z, n; elman h before it is bounded;
  // slstm i, f, z, o as they scale, and the slope 1 - logistic of the forget gate. (The paper keeps
  // the raw forget gate and m instead, from which f cannot be had again in 16 bits.)
  std::int64_t saved_gates;
  std::int64_t states;
};

constexpr CellShape shape_of(Cell cell) {
  switch (cell) {
    case Cell::lstm:
      return {4, 4, 4, 4, 2};
    case Cell::gru:
      return {3, 3, 4, 4, 1};
    case Cell::elman:
      return {1, 1, 1, 1, 1};
    case Cell::slstm:
      break;
  }
  return {4, 4, 4, 5, 4};
}

inline constexpr std::int64_t max_gates = 5;
inline constexpr std::int64_t max_states = 4;

}  // namespace einkorn::flashrnn
