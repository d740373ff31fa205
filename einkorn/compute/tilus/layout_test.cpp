#include "einkorn/compute/tilus/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <numeric>

#include "einkorn/core/error.h"

namespace einkorn::tilus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

Layout spatial(const Index& shape) {
  return Layout::spatial(shape);
}
Layout local(const Index& shape) {
  return Layout::local(shape);
}

void expect_form(const Layout& layout, const Index& shape, const Index& modes,
                 const Index& spatial_modes, const Index& local_modes) {
  EXPECT_EQ(layout.shape(), shape);
  EXPECT_EQ(layout.mode_shape(), modes);
  EXPECT_EQ(layout.spatial_modes(), spatial_modes);
  EXPECT_EQ(layout.local_modes(), local_modes);
}

TEST(Layout, ProductsOfThePaper) {
  expect_form(spatial({2, 4}) * local({2, 1}), {4, 4}, {2, 2, 4}, {0, 2}, {1});
  const Layout mixed = local({3, 4}) * spatial({2, 3});
  expect_form(mixed, {6, 12}, {3, 2, 4, 3}, {1, 3}, {0, 2});
  EXPECT_EQ(mixed.threads_of({2, 4}), std::vector<std::int64_t>{1});
  EXPECT_EQ(mixed.local_of({2, 4}), 5);
  EXPECT_EQ((spatial({2, 3}) * local({3, 4})).at(4, 7), (Index{4, 7}));
  const Layout nested = spatial({2, 4}) * local({3, 2}) * spatial({6, 8});
  expect_form(nested, {36, 64}, {2, 3, 6, 4, 2, 8}, {0, 3, 2, 5}, {1, 4});
  EXPECT_EQ(nested.threads(), 384);
  EXPECT_EQ(nested.local_size(), 6);
  EXPECT_EQ(nested.at(100, 5), (Index{12, 44}));
  EXPECT_EQ(nested.threads_of({35, 63}), std::vector<std::int64_t>{383});
  EXPECT_EQ(nested.local_of({35, 63}), 5);
}

TEST(Layout, QuotientsOfThePaper) {
  EXPECT_EQ(spatial({2, 4}) / spatial({1, 2}), spatial({2, 2}));
  EXPECT_EQ(spatial({2, 4}) * local({2, 1}) / local({2, 1}), spatial({2, 4}));
  EXPECT_EQ(spatial({2, 4}) * local({2, 1}) / (spatial({1, 2}) * local({2, 1})), spatial({2, 2}));
  EXPECT_EQ(spatial({32, 1}) * local({1, 32}) / spatial({32, 1}), local({1, 32}));
  EXPECT_EQ(spatial({6}) / spatial({3}), spatial({2}));
  EXPECT_EQ(spatial({2, 12}) / spatial({1, 3}), spatial({2, 4}));
  EXPECT_EQ(left_divide(spatial({6}), spatial({2})), spatial({3}));
  EXPECT_EQ(left_divide(spatial({2, 12}) * local({2, 3}), spatial({2, 1}) * local({2, 1})),
            spatial({1, 12}) * local({1, 3}));
  EXPECT_THAT(
      [] { spatial({6}) / spatial({4}); },
      ThrowsMessage<InvalidArgument>(HasSubstr("spatial(6) is not divisible by spatial(4)")));
  EXPECT_FALSE(divides(local({2}), spatial({4})));
  EXPECT_FALSE(divides(Layout::column_spatial({2, 2}), spatial({2, 2})));
}

TEST(Layout, ReshapeReduceAndCanonicalFormOfThePaper) {
  EXPECT_EQ(spatial({2, 4}).reshape({2, 2, 2}), spatial({2, 2, 2}));
  const Layout reduced = spatial({3, 4}).reduce({0});
  expect_form(reduced, {4}, {4}, {-3, 0}, {});
  EXPECT_EQ(reduced.threads_of({0}), (std::vector<std::int64_t>{0, 4, 8}));
  expect_form(Layout({4, 6, 5}, {2, 2, 2, 3, 5}, {0, 1}, {2, 3, 4}).canonical(), {4, 6, 5},
              {4, 6, 5}, {0}, {1, 2});
  EXPECT_THAT([] { spatial({2, 3}).reshape({3, 2}); },
              ThrowsMessage<InvalidArgument>(HasSubstr("do not refine to the shape [3, 2]")));
}

std::vector<Index> elements_of(const Layout& layout, std::int64_t thread) {
  std::vector<Index> found;
  for (std::int64_t i = 0; i < layout.local_size(); ++i) found.push_back(layout.at(thread, i));
  return found;
}

TEST(Layout, TensorCoreAtoms) {
  using Elements = std::vector<Index>;
  expect_form(mma_a(), {16, 16}, {2, 8, 2, 4, 2}, {1, 3}, {2, 0, 4});
  EXPECT_EQ(elements_of(mma_a(), 5),
            (Elements{{1, 2}, {1, 3}, {9, 2}, {9, 3}, {1, 10}, {1, 11}, {9, 10}, {9, 11}}));
  EXPECT_EQ(elements_of(mma_b(), 5), (Elements{{2, 1}, {3, 1}, {10, 1}, {11, 1}}));
  EXPECT_EQ(elements_of(mma_b(), 30), (Elements{{4, 7}, {5, 7}, {12, 7}, {13, 7}}));
  EXPECT_EQ(elements_of(mma_c(), 30), (Elements{{7, 4}, {7, 5}, {15, 4}, {15, 5}}));
  EXPECT_EQ(elements_of(local({1, 2}) * mma_b(), 9),
            (Elements{{2, 2}, {3, 2}, {10, 2}, {11, 2}, {2, 10}, {3, 10}, {10, 10}, {11, 10}}));
}

TEST(Layout, AutoLocalSpatialTakesTheLastDimensionFirst) {
  EXPECT_EQ(Layout::auto_local_spatial(32, {16, 8}), local({4, 1}) * spatial({4, 8}));
  EXPECT_EQ(Layout::auto_local_spatial(128, {4, 6}),
            Layout::replicate(16) * local({1, 3}) * spatial({4, 2}));
  EXPECT_EQ(Layout::auto_local_spatial(32, {3}), Layout::replicate(32) * local({3}));
}

TEST(Layout, TextAndDiagram) {
  EXPECT_EQ(mma_b().to_string(), "local(2,1).column_spatial(4,8).local(2,1)");
  EXPECT_EQ((Layout::replicate(4) * spatial({2, 4})).to_string(), "replicate(4).spatial(2,4)");
  EXPECT_EQ(Layout::parse("spatial(8, 4).repeat(1,2)"), ldmatrix_unit());
  EXPECT_EQ(Layout::parse("spatial(2,3,4; order=2,0,1)"), Layout::spatial({2, 3, 4}, {2, 0, 1}));
  EXPECT_EQ((spatial({2, 2}) * local({1, 2})).diagram(),
            "  |    0    1    2    3\n"
            "--+--------------------\n"
            "0 | 0: 0 0: 1 1: 0 1: 1\n"
            "1 | 2: 0 2: 1 3: 0 3: 1\n");
  EXPECT_EQ(spatial({2, 2}).reduce({0}).diagram(),
            "  |      0      1\n"
            "--+--------------\n"
            "0 | 0,2: 0 1,3: 0\n");
  EXPECT_EQ(Layout().diagram(), "  |    0\n--+-----\n0 | 0: 0\n");
}

TEST(Layout, BadTextIsRefused) {
  const std::pair<const char*, const char*> bad[] = {
      {"", "expected spatial"},
      {"spatial", "expected '('"},
      {"spatial(2", "expected ')'"},
      {"spatial(2,)", "expected an integer"},
      {"spatial(0)", "not positive"},
      {"spatial(-2)", "not positive"},
      {"spatial(99999999999)", "at most 10 digits"},
      {"spatial(65536,65536)", "exceed 2^31"},
      {"warp(2)", "unknown factor 'warp'"},
      {"spatial(2).", "expected spatial"},
      {"spatial(2) x", "unexpected 'x'"},
      {"column_local(2,2; order=0,1)", "takes no order"},
      {"spatial(2,2; order=0,0)", "exactly once"},
      {"spatial(2,2; order=0,7)", "does not exist"},
      {"replicate(2,2)", "replicate takes one number"},
      {"replicate(0)", "at least 1"},
      {"layout(shape=[4], modes=[3], spatial=[0], local=[])", "do not factor"},
      {"layout(shape=[4], modes=[2,2], spatial=[0], local=[])", "exactly once"},
      {"layout(shape=[4], modes=[4], spatial=[], local=[-2,0])", "among the local modes"},
      {"local(1,1,1,1,1,1,1,1,1)", "more than 8"}};
  for (const auto& [text, words] : bad) {
    EXPECT_THAT([text = text] { Layout::parse(text); },
                ThrowsMessage<InvalidArgument>(HasSubstr(words)))
        << text;
  }
  EXPECT_THAT([] { spatial({2, 2}).at(4, 0); },
              ThrowsMessage<InvalidArgument>(HasSubstr("outside")));
  EXPECT_THAT([] { spatial({2, 2}).threads_of({0, 2}); },
              ThrowsMessage<InvalidArgument>(HasSubstr("outside the shape [2, 2]")));
  EXPECT_THAT([] { local({1 << 20}).diagram(); },
              ThrowsMessage<InvalidArgument>(HasSubstr("too large")));
}

// ---- identities over random layouts ----

Layout random_layout(std::size_t rank, int most_factors = 3) {
  Layout layout = local(Index(rank, 1));
  const int factors = *rc::gen::inRange(0, most_factors + 1);
  for (int i = 0; i < factors; ++i) {
    Index sizes;
    for (std::size_t dim = 0; dim < rank; ++dim) {
      sizes.push_back(*rc::gen::element<std::int64_t>(1, 1, 2, 3, 4));
    }
    switch (*rc::gen::inRange(0, 5)) {
      case 0:
        layout = layout * Layout::column_spatial(sizes);
        break;
      case 1:
        layout = layout * Layout::column_local(sizes);
        break;
      case 2:
        layout = layout * local(sizes);
        break;
      case 3:
        layout = layout * Layout::replicate(*rc::gen::inRange(1, 3));
        break;
      default:
        layout = layout * spatial(sizes);
    }
  }
  return layout;
}

std::size_t random_rank() {
  return *rc::gen::inRange<std::size_t>(1, 4);
}

TEST(Layout, PlacesAndIndicesAreInverse) {
  EXPECT_TRUE(rc::check([] {
    const Layout layout = random_layout(random_rank());
    RC_ASSERT(layout.threads() * layout.local_size() == layout.size() * layout.replication());
    const auto thread = *rc::gen::inRange<std::int64_t>(0, layout.threads());
    const auto place = *rc::gen::inRange<std::int64_t>(0, layout.local_size());
    const Index index = layout.at(thread, place);
    const std::vector<std::int64_t> threads = layout.threads_of(index);
    RC_ASSERT(static_cast<std::int64_t>(threads.size()) == layout.replication());
    RC_ASSERT(std::is_sorted(threads.begin(), threads.end()));
    RC_ASSERT(std::count(threads.begin(), threads.end(), thread) == 1);
    RC_ASSERT(layout.local_of(index) == place);
  }));
}

TEST(Layout, ProductIsTiling) {
  EXPECT_TRUE(rc::check([] {
    const std::size_t rank = random_rank();
    const Layout f = random_layout(rank, 2);
    const Layout g = random_layout(rank, 2);
    const Layout product = f * g;
    const auto thread = *rc::gen::inRange<std::int64_t>(0, product.threads());
    const auto place = *rc::gen::inRange<std::int64_t>(0, product.local_size());
    const Index outer = f.at(thread / g.threads(), place / g.local_size());
    const Index inner = g.at(thread % g.threads(), place % g.local_size());
    const Index index = product.at(thread, place);
    for (std::size_t dim = 0; dim < rank; ++dim) {
      RC_ASSERT(index[dim] == outer[dim] * g.shape()[dim] + inner[dim]);
    }
  }));
}

TEST(Layout, ProductIsAssociative) {
  EXPECT_TRUE(rc::check([] {
    const std::size_t rank = random_rank();
    const Layout a = random_layout(rank, 2);
    const Layout b = random_layout(rank, 2);
    const Layout c = random_layout(rank, 2);
    RC_ASSERT((a * b) * c == a * (b * c));
    RC_ASSERT(a * Layout() == a);
    RC_ASSERT(Layout() * a == a);
  }));
}

TEST(Layout, DivisionUndoesProducts) {
  EXPECT_TRUE(rc::check([] {
    const std::size_t rank = random_rank();
    const Layout h = random_layout(rank);
    const Layout g = random_layout(rank);
    RC_ASSERT((h * g) / g == h);
    RC_ASSERT(left_divide(g * h, g) == h);
  }));
}

// A quotient of any two layouts, where there is one, is a factor.
TEST(Layout, QuotientsMultiplyBack) {
  EXPECT_TRUE(rc::check([] {
    const std::size_t rank = random_rank();
    const Layout f = random_layout(rank);
    const Layout g = random_layout(rank, 1);
    if (divides(g, f)) RC_ASSERT((f / g) * g == f);
    if (left_divides(g, f)) RC_ASSERT(g * left_divide(f, g) == f);
  }));
}

TEST(Layout, CanonicalFormIsTheSameMap) {
  EXPECT_TRUE(rc::check([] {
    const Layout layout = random_layout(random_rank(), 4);
    const Layout canonical = layout.canonical();
    RC_ASSERT(canonical.mode_shape().size() <= layout.mode_shape().size());
    RC_ASSERT(canonical.canonical().mode_shape() == canonical.mode_shape());
    const auto thread = *rc::gen::inRange<std::int64_t>(0, layout.threads());
    const auto place = *rc::gen::inRange<std::int64_t>(0, layout.local_size());
    RC_ASSERT(canonical.at(thread, place) == layout.at(thread, place));
  }));
}

TEST(Layout, TextComesBack) {
  EXPECT_TRUE(rc::check([] {
    const Layout layout = random_layout(random_rank(), 4);
    RC_ASSERT(Layout::parse(layout.to_string()) == layout);
    const Layout permuted = layout.rank() == 2 ? layout.permute({1, 0}).flatten() : layout;
    RC_ASSERT(Layout::parse(permuted.to_string()) == permuted);
  }));
}

TEST(Layout, OtherOperationsMoveIndicesAsTheySay) {
  EXPECT_TRUE(rc::check([] {
    const Layout layout = random_layout(2);
    const auto thread = *rc::gen::inRange<std::int64_t>(0, layout.threads());
    const auto place = *rc::gen::inRange<std::int64_t>(0, layout.local_size());
    const Index index = layout.at(thread, place);
    const std::int64_t columns = layout.shape()[1];
    RC_ASSERT(layout.permute({1, 0}).at(thread, place) == (Index{index[1], index[0]}));
    RC_ASSERT(layout.flatten().at(thread, place) == Index{index[0] * columns + index[1]});
    RC_ASSERT(layout.unsqueeze(1).at(thread, place) == (Index{index[0], 0, index[1]}));
    RC_ASSERT(layout.unsqueeze(1).squeeze(1) == layout);
    const Layout reduced = layout.reduce({0});
    const std::vector<std::int64_t> holders = reduced.threads_of({index[1]});
    RC_ASSERT(std::count(holders.begin(), holders.end(), thread) == 1);
    RC_ASSERT(layout.reduce_to({1, columns}) == layout.reduce({0}, true));
    const Layout pair = layout.concat(spatial({2}) * local({3}));
    const Index joined = pair.at(2 * thread + 1, 3 * place + 2);
    RC_ASSERT(joined == (Index{index[0], index[1], 5}));
  }));
}

}  // namespace
}  // namespace einkorn::tilus
