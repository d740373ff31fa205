// How a tensor is spread over the threads of a block: an algebra of register layouts.
// Ding et al., "Tilus: A Virtual Machine for Arbitrary Low-Precision GPGPU Computation in LLM
// Serving", 2025, section on layouts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace einkorn::tilus {

using Index = std::vector<std::int64_t>;

// A map from (thread, local) to the index of an element, and back to every thread that holds it.
//
// Every dimension is factored into modes, row-major (the left one slow); mode_shape lists the
// factors in the order of the dimensions. Each mode stands once in spatial_modes (its digit is part
// of the thread number) or once in local_modes (part of the place within the thread); both lists
// begin with their slowest digit. An entry -r of spatial_modes is a replication: a digit of the
// thread number that moves no index, so r threads hold the same element.
//
// A small value type: cheap to copy, compared by its canonical form.
class Layout {
 public:
  // The layout of a tensor of rank 0: one thread, one element.
  Layout() = default;

  // Modes of size 1 are removed, and their places in the lists with them. Throws InvalidArgument if
  // the modes do not factor the shape or do not stand in exactly one list each, and for layouts of
  // more than 2^31 threads or elements.
  Layout(Index shape, Index mode_shape, Index spatial_modes, Index local_modes);

  static Layout spatial(const Index& shape);         // thread = row-major index
  static Layout local(const Index& shape);           // place = row-major index; "repeat"
  static Layout column_spatial(const Index& shape);  // thread = column-major index
  static Layout column_local(const Index& shape);
  // The dimensions from the slowest digit to the fastest: order (1, 0) is column_spatial.
  static Layout spatial(const Index& shape, const Index& order);
  static Layout local(const Index& shape, const Index& order);
  // `count` threads that all hold the same single element; rank 0, as a factor of products.
  static Layout replicate(std::int64_t count);
  static Layout replicated(const Index& shape, std::int64_t threads);
  // Spreads the shape over so many threads, the last dimension first; threads that are left over
  // replicate.
  static Layout auto_local_spatial(std::int64_t threads, const Index& shape);

  const Index& shape() const { return shape_; }
  const Index& mode_shape() const { return mode_shape_; }
  const Index& spatial_modes() const { return spatial_modes_; }
  const Index& local_modes() const { return local_modes_; }
  std::int64_t rank() const { return static_cast<std::int64_t>(shape_.size()); }
  std::int64_t size() const;        // elements of the tensor
  std::int64_t threads() const;     // replicas included
  std::int64_t local_size() const;  // elements a thread
  std::int64_t replication() const;

  // The element at one place. Throws InvalidArgument outside [0, threads()) x [0, local_size()).
  Index at(std::int64_t thread, std::int64_t local) const;
  // All threads that hold the element, ascending, and its place in each of them.
  std::vector<std::int64_t> threads_of(const Index& index) const;
  std::int64_t local_of(const Index& index) const;

  // Modes of neighbouring places and of one dimension merged, replications too.
  Layout canonical() const;

  // Dimensions appended: this one's threads are the slow digits.
  Layout concat(const Layout& right) const;
  Layout permute(const Index& dims) const;       // dims[i] becomes dimension i
  Layout reshape(const Index& new_shape) const;  // row-major
  Layout flatten() const { return reshape({size()}); }
  Layout squeeze(std::int64_t dim) const;
  Layout unsqueeze(std::int64_t dim) const;
  // The layout of the tensor reduced over dims: local digits vanish, spatial ones replicate.
  Layout reduce(const Index& dims, bool keep_dims = false) const;
  // Reduced, with kept dimensions, to a shape that broadcasts to this one.
  Layout reduce_to(const Index& target_shape) const;

  // "local(2,1).column_spatial(4,8).local(2,1)", or the general form
  // "layout(shape=[4,4], modes=[2,2,4], spatial=[0,2], local=[1])" where no chain of factors is
  // equal. parse reads both.
  std::string to_string() const;
  static Layout parse(std::string_view text);

  // A grid with "thread: local" in each cell ("0,4: 1" for replicas), for ranks 0 to 2; higher
  // ranks print one grid for each index of their leading dimensions.
  std::string diagram() const;

  friend bool operator==(const Layout& a, const Layout& b);

 private:
  void check() const;

  Index shape_;
  Index mode_shape_;
  Index spatial_modes_;
  Index local_modes_;
};

// The product: each element of f becomes a tile g. thread = t_f T_g + t_g, local = l_f L_g + l_g,
// index = i_f shape_g + i_g; shorter ranks get leading ones. Associative, not commutative.
Layout operator*(const Layout& f, const Layout& g);

// Right division: the h with h * g = f. Throws InvalidArgument if there is none.
Layout operator/(const Layout& f, const Layout& g);

// The h with g * h = f. Throws InvalidArgument if there is none.
Layout left_divide(const Layout& f, const Layout& g);

// Whether the divisions above have a result.
bool divides(const Layout& g, const Layout& f);
bool left_divides(const Layout& g, const Layout& f);

// The tensor core's register layouts (m16n8k16 with 16-bit factors), and ldmatrix's unit.
Layout mma_a();          // 16 x 16
Layout mma_b();          // 16 x 8, k x n
Layout mma_c();          // 16 x 8
Layout ldmatrix_unit();  // 8 x 8 of 16 bits

}  // namespace einkorn::tilus
