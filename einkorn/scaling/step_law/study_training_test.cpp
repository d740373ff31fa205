#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "einkorn/core/error.h"
#include "einkorn/scaling/step_law/study_training_internal.h"

namespace einkorn::step_law {
namespace {

const Study small = {8, 2048, {1e-3, 1e-2}, {32, 64}, 2};
const Study wider = {16, 2048, {1e-2}, {64}, 1};

class Threads {
 public:
  explicit Threads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before_); }

 private:
  int before_;
};

TEST(TrainStudies, ModelsLearn) {
  const Study study = {16, 1 << 15, {1e-5, 1e-2}, {32}, 1};
  const TrainedStudy trained = train_studies({study}, Device::cpu, 1)[0];
  EXPECT_EQ(trained.params, 2 * (4 * 16 * 16 + 3 * 16 * 42));
  EXPECT_NEAR(trained.losses[0][0][0], std::log(12), 0.02) << "hardly moved from equal odds";
  EXPECT_LT(trained.losses[0][1][0], std::log(12) - 0.02);
}

TEST(TrainStudies, LossesDoNotDependOnThreadsOrCompany) {
  const Threads one(1);
  const auto alone = train_studies({small}, Device::cpu, 40);
  const Threads three(3);
  const auto together = train_studies({wider, small}, Device::cpu, 40);
  ASSERT_EQ(together.size(), 2U);
  EXPECT_EQ(together[1].losses, alone[0].losses);
  EXPECT_NE(train_studies({small}, Device::cpu, 41)[0].losses, alone[0].losses);
}

TEST(TrainStudies, RunsShareTextAndWeightsAcrossTheGrid) {
  Study second = small;
  second.rates = {1e-2};
  const auto both = train_studies({small}, Device::cpu, 40);
  const auto one = train_studies({second}, Device::cpu, 40);
  for (std::size_t batch = 0; batch < 2; ++batch) {
    for (std::size_t seed = 0; seed < 2; ++seed) {
      EXPECT_NEAR(one[0].losses[batch][0][seed], both[0].losses[batch][1][seed], 1e-4);
    }
  }
}

TEST(TrainStudies, ReportsAndStops) {
  std::vector<std::int64_t> reported;
  std::int64_t all = 0;
  const Threads one(1);
  train_studies({small, wider}, Device::cpu, 1,
                Progress([&](const std::string&, std::int64_t done, std::int64_t total) {
                  reported.push_back(done);
                  all = total;
                }));
  EXPECT_EQ(all, 2 * 2 * 2048 + 2048);
  EXPECT_EQ(reported.back(), all);
  EXPECT_TRUE(std::is_sorted(reported.begin(), reported.end()));
  const Threads two(2);
  int calls = 0;
  const auto stop_at_third = [&](const std::string&, std::int64_t, std::int64_t) {
    if (++calls == 3) throw std::domain_error("enough");
  };
  EXPECT_THROW(train_studies({small, wider}, Device::cpu, 1, Progress(stop_at_third)),
               std::domain_error)
      << "what the sink throws, not what its fellow threads make of it";
  EXPECT_EQ(calls, 3);
}

TEST(TrainStudies, RefuseWhatIsNoStudy) {
  EXPECT_TRUE(train_studies({}, Device::cpu, 1).empty());
  for (const std::int64_t batch : {0, 24, 4096}) {
    Study bad = small;
    bad.batches = {batch};
    EXPECT_THROW(train_studies({bad}, Device::cpu, 1), InvalidArgument) << batch;
  }
  Study empty = small;
  empty.rates.clear();
  EXPECT_THROW(train_studies({empty}, Device::cpu, 1), InvalidArgument);
}

TEST(TrainedStudy, GroupsAverageOverSeedsAndLeaveOutWhatDiverged) {
  const TrainedStudy trained = {{8, 2048, {1e-3, 1e-2}, {32, 64}, 2},
                                1000,
                                {{{1.0, 2.0}, {3.0, 5.0}}, {{NAN, 2.0}, {4.0, 6.0}}}};
  const RunGroup all = trained.group();
  ASSERT_EQ(all.runs.size(), 3U);
  EXPECT_EQ(all.runs[0].loss, 1.5);
  EXPECT_NEAR(all.runs[1].learning_rate, 1e-2 * std::sqrt(0.5), 1e-15) << "a batch of 32";
  EXPECT_EQ(all.runs[2].learning_rate, 1e-2) << "a batch of 64";
  EXPECT_EQ(all.runs[2].loss, 5.0);
  EXPECT_EQ(all.runs[2].batch_sequences, 4) << "64 tokens are four sequences";
  const RunGroup second = trained.group(0);
  ASSERT_EQ(second.runs.size(), 4U) << "the run that diverged is the first seed's";
  EXPECT_EQ(second.runs[0].loss, 2.0);
}

}  // namespace
}  // namespace einkorn::step_law
