// The recurrence as it is written in the paper, in double, one row and head at a time: what all
// kernels are compared with, and what runs where no vector kernel does.
#include <algorithm>
#include <cmath>
#include <vector>

#include "einkorn/compute/flashrnn/recurrence_kernels.h"

namespace einkorn::flashrnn {
namespace {

double logistic(double x) {
  const double e = std::exp(-std::abs(x));
  return x > 0 ? 1 / (1 + e) : e / (1 + e);
}

double log_logistic(double x) {
  return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x)));
}

double clipped(double x, double bound) {
  return x > bound ? bound : x < -bound ? -bound : x;
}

// Indices into the dense tensors for one row and head.
struct Place {
  const Sequence& sequence;
  std::int64_t row;
  std::int64_t head;

  std::int64_t state(std::int64_t s, std::int64_t time, std::int64_t unit) const {
    const Sequence& q = sequence;
    return (((s * q.batch + row) * q.time + time) * q.heads + head) * q.dim + unit;
  }
  std::int64_t boundary(std::int64_t s, std::int64_t unit) const {
    return ((s * sequence.batch + row) * sequence.heads + head) * sequence.dim + unit;
  }
  std::int64_t gate(std::int64_t count, std::int64_t time, std::int64_t g,
                    std::int64_t unit) const {
    const Sequence& q = sequence;
    return (((row * q.time + time) * count + g) * q.heads + head) * q.dim + unit;
  }
};

// What one unit's step makes of the input gates w, the recurrent products y and the biases b.
struct UnitStep {
  double states[max_states];
  double gates[max_gates];
};

UnitStep forward_unit(Cell cell, const double* w, const double* y, const double* b,
                      const double* previous, double clip) {
  UnitStep out = {};
  switch (cell) {
    case Cell::elman: {
      out.gates[0] = std::tanh(w[0] + y[0] + b[0]);
      out.states[0] = out.gates[0];
      break;
    }
    case Cell::gru: {
      const double g = y[0] + b[0];
      const double r = logistic(w[0] + y[1] + b[1]);
      const double z = logistic(w[1] + y[2] + b[2]);
      const double n = std::tanh(w[2] + b[3] + r * g);
      out = {{z * previous[0] + (1 - z) * n}, {g, r, z, n}};
      break;
    }
    case Cell::lstm: {
      const double i = logistic(w[0] + y[0] + b[0]);
      const double f = logistic(w[1] + y[1] + b[1]);
      const double z = std::tanh(w[2] + y[2] + b[2]);
      const double o = logistic(w[3] + y[3] + b[3]);
      const double c = f * previous[1] + i * z;
      out = {{o * std::tanh(c), c}, {i, f, z, o}};
      break;
    }
    case Cell::slstm: {
      const double raw_i = w[0] + y[0] + b[0];
      const double raw_f = w[1] + y[1] + b[1];
      const double from_memory = log_logistic(raw_f) + previous[3];
      const double m = previous[2] == 0 ? raw_i : std::max(raw_i, from_memory);
      const double i = std::min(1.0, std::exp(raw_i - m));
      const double f = std::min(1.0, std::exp(from_memory - m));
      const double z = std::tanh(w[2] + y[2] + b[2]);
      const double o = logistic(w[3] + y[3] + b[3]);
      const double c = f * previous[1] + i * z;
      const double n = std::max(f * previous[2] + i, 1.0);
      out = {{o * c / n, c, n, m}, {i, f, z, o, logistic(-raw_f)}};
      break;
    }
  }
  out.states[0] = clipped(out.states[0], clip);
  return out;
}

struct UnitGradient {
  double input[max_gates];
  double recurrent[max_gates];
  double carry[max_states];  // without R^T times the recurrent gates
};

// d: gradients of the unit's new states.
UnitGradient backward_unit(Cell cell, const double* d, const double* gates, const double* states,
                           const double* previous, double clip) {
  // Through the bound on h nothing comes back where it bites.
  const auto through_clip = [clip](double dh, double h) { return std::abs(h) > clip ? 0 : dh; };
  UnitGradient out = {};
  switch (cell) {
    case Cell::elman: {
      const double h = gates[0];
      out.input[0] = through_clip(d[0], h) * (1 - h * h);
      break;
    }
    case Cell::gru: {
      const double g = gates[0], r = gates[1], z = gates[2], n = gates[3];
      const double dh = through_clip(d[0], z * previous[0] + (1 - z) * n);
      const double dn = dh * (1 - z) * (1 - n * n);
      const double dz = dh * (previous[0] - n) * z * (1 - z);
      const double dr = dn * g * r * (1 - r);
      return {{dr, dz, dn}, {dn * r, dr, dz}, {dh * z}};
    }
    case Cell::lstm: {
      const double i = gates[0], f = gates[1], z = gates[2], o = gates[3];
      const double tanh_c = std::tanh(states[1]);
      const double dh = through_clip(d[0], o * tanh_c);
      const double dc = d[1] + dh * o * (1 - tanh_c * tanh_c);
      out = {{dc * z * i * (1 - i), dc * previous[1] * f * (1 - f), dc * i * (1 - z * z),
              dh * tanh_c * o * (1 - o)},
             {},
             {0, dc * f}};
      break;
    }
    case Cell::slstm: {
      const double i = gates[0], f = gates[1], z = gates[2], o = gates[3], slope_f = gates[4];
      const double c = states[1], n = states[2];
      const double h = o * c / n;
      const double dh = through_clip(d[0], h);
      const double dc = d[1] + dh * o / n;
      const double dn = d[2] - dh * h / n;
      out = {{i * (z * dc + dn), f * (dc * previous[1] + dn * previous[2]) * slope_f,
              dc * i * (1 - z * z), dh * h * (1 - o)},
             {},
             {0, f * dc, f * dn, 0}};
      break;
    }
  }
  std::copy(out.input, out.input + max_gates, out.recurrent);
  return out;
}

}  // namespace

void reference_forward(const ForwardPass<double>& pass, std::int64_t begin, std::int64_t end) {
  const Sequence& q = pass.sequence;
  const CellShape shape = shape_of(q.cell);
  const std::int64_t dim = q.dim;
  std::vector<double> hidden(static_cast<std::size_t>(dim));
  for (std::int64_t task = begin; task < end; ++task) {
    const Place place = {q, task / q.heads, task % q.heads};
    const auto previous_of = [&](std::int64_t s, std::int64_t step, std::int64_t unit) {
      return step == 0 ? pass.initial[place.boundary(s, unit)]
                       : pass.states[place.state(s, q.position(place.row, step - 1), unit)];
    };
    for (std::int64_t step = 0; step < q.time; ++step) {
      const std::int64_t time = q.position(place.row, step);
      if (step >= q.length(place.row)) {
        for (std::int64_t s = 0; s < shape.states; ++s) {
          std::fill_n(pass.states + place.state(s, time, 0), dim, 0.0);
        }
        for (std::int64_t g = 0; pass.gates && g < shape.saved_gates; ++g) {
          std::fill_n(pass.gates + place.gate(shape.saved_gates, time, g, 0), dim, 0.0);
        }
        continue;
      }
      for (std::int64_t k = 0; k < dim; ++k) {
        hidden[static_cast<std::size_t>(k)] = previous_of(0, step, k);
      }
      for (std::int64_t unit = 0; unit < dim; ++unit) {
        double w[max_gates] = {}, y[max_gates] = {}, b[max_gates] = {}, previous[max_states] = {};
        for (std::int64_t g = 0; g < shape.input_gates; ++g) {
          w[g] = pass.input.data[place.row * pass.input.batch + time * pass.input.time +
                                 g * pass.input.gate + place.head * pass.input.head + unit];
        }
        for (std::int64_t g = 0; g < shape.recurrent_gates; ++g) {
          const double* row = pass.recurrent + ((g * q.heads + place.head) * dim + unit) * dim;
          for (std::int64_t k = 0; k < dim; ++k) {
            y[g] += row[k] * hidden[static_cast<std::size_t>(k)];
          }
        }
        for (std::int64_t g = 0; g < shape.biases; ++g) {
          b[g] = pass.bias[(g * q.heads + place.head) * dim + unit];
        }
        for (std::int64_t s = 0; s < shape.states; ++s) previous[s] = previous_of(s, step, unit);
        const UnitStep next = forward_unit(q.cell, w, y, b, previous, q.forward_clip);
        for (std::int64_t s = 0; s < shape.states; ++s) {
          pass.states[place.state(s, time, unit)] = next.states[s];
        }
        for (std::int64_t g = 0; pass.gates && g < shape.saved_gates; ++g) {
          pass.gates[place.gate(shape.saved_gates, time, g, unit)] = next.gates[g];
        }
      }
    }
  }
}

void reference_backward(const BackwardPass<double>& pass, std::int64_t begin, std::int64_t end) {
  const Sequence& q = pass.sequence;
  const CellShape shape = shape_of(q.cell);
  const std::int64_t dim = q.dim;
  std::vector<double> gate_row(static_cast<std::size_t>(shape.recurrent_gates * dim));
  for (std::int64_t task = begin; task < end; ++task) {
    const Place place = {q, task / q.heads, task % q.heads};
    const std::int64_t length = q.length(place.row);
    for (std::int64_t step = q.time - 1; step >= 0; --step) {
      const std::int64_t time = q.position(place.row, step);
      const auto write = [&](std::int64_t unit, const UnitGradient& gradient) {
        for (std::int64_t g = 0; g < shape.input_gates; ++g) {
          pass.input_gradient[place.gate(shape.input_gates, time, g, unit)] = gradient.input[g];
        }
        for (std::int64_t g = 0; g < shape.recurrent_gates; ++g) {
          gate_row[static_cast<std::size_t>(g * dim + unit)] = gradient.recurrent[g];
          if (pass.recurrent_gradient) {
            pass.recurrent_gradient[place.gate(shape.recurrent_gates, time, g, unit)] =
                gradient.recurrent[g];
          }
        }
      };
      if (step >= length) {
        for (std::int64_t unit = 0; unit < dim; ++unit) write(unit, {});
        continue;
      }
      for (std::int64_t unit = 0; unit < dim; ++unit) {
        double d[max_states] = {}, states[max_states] = {}, previous[max_states] = {};
        double gates[max_gates] = {};
        for (std::int64_t s = 0; s < shape.states; ++s) {
          double carry = pass.carry[place.boundary(s, unit)];
          if (s == 0) carry = clipped(carry, q.gradient_clip);
          d[s] = carry;
          if (pass.gradient_states) d[s] += pass.gradient_states[place.state(s, time, unit)];
          if (pass.gradient_last && step == length - 1) {
            d[s] += pass.gradient_last[place.boundary(s, unit)];
          }
          states[s] = pass.states[place.state(s, time, unit)];
          previous[s] = step == 0
                            ? pass.initial[place.boundary(s, unit)]
                            : pass.states[place.state(s, q.position(place.row, step - 1), unit)];
        }
        for (std::int64_t g = 0; g < shape.saved_gates; ++g) {
          gates[g] = pass.gates[place.gate(shape.saved_gates, time, g, unit)];
        }
        const UnitGradient gradient =
            backward_unit(q.cell, d, gates, states, previous, q.forward_clip);
        write(unit, gradient);
        for (std::int64_t s = 0; s < shape.states; ++s) {
          pass.carry[place.boundary(s, unit)] = gradient.carry[s];
        }
      }
      for (std::int64_t g = 0; !q.gradient_cut && g < shape.recurrent_gates; ++g) {
        for (std::int64_t unit = 0; unit < dim; ++unit) {
          const double* row = pass.recurrent + ((g * q.heads + place.head) * dim + unit) * dim;
          const double factor = gate_row[static_cast<std::size_t>(g * dim + unit)];
          for (std::int64_t k = 0; k < dim; ++k) {
            pass.carry[place.boundary(0, k)] += row[k] * factor;
          }
        }
      }
    }
    // A row without steps hands the gradient of `last` straight on.
    for (std::int64_t s = 0; length == 0 && pass.gradient_last && s < shape.states; ++s) {
      for (std::int64_t unit = 0; unit < dim; ++unit) {
        pass.carry[place.boundary(s, unit)] += pass.gradient_last[place.boundary(s, unit)];
      }
    }
  }
}

}  // namespace einkorn::flashrnn
