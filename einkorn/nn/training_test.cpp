#include "einkorn/nn/training.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "einkorn/core/error.h"
#include "einkorn/nn/weights.h"

namespace einkorn::nn {
namespace {

using torch::Tensor;

// Two blobs that a linear map with dropout separates.
LabelledImages blobs(std::int64_t size) {
  torch::manual_seed(11);
  const Tensor labels = torch::arange(size).remainder(2);
  const Tensor images = torch::randn({size, 1, 2, 2}) + (labels * 4 - 2).view({-1, 1, 1, 1});
  return {images, labels, 2};
}

struct Model {
  Model() {
    torch::manual_seed(7);
    network = torch::nn::Sequential(torch::nn::Flatten(), torch::nn::Linear(4, 8),
                                    torch::nn::BatchNorm1d(8), torch::nn::Dropout(0.3),
                                    torch::nn::Linear(8, 2));
  }

  Classifier classifier() {
    return [this](const Tensor& images) { return network->forward(images); };
  }

  torch::nn::Sequential network;
};

TrainingOptions short_run() {
  TrainingOptions options;
  options.epochs = 4;
  options.batch_size = 10;
  options.learning_rate = 0.02;
  options.warmup_epochs = 1;
  options.label_smoothing = 0.1;
  options.seed = 3;
  return options;
}

std::filesystem::path temporary(const char* name) {
  return std::filesystem::temp_directory_path() /
         fmt::format("einkorn-training-{}-{}", testing::UnitTest::GetInstance()->random_seed(),
                     name);
}

TEST(Training, LearnsAndReportsWhatItSaw) {
  Model model;
  const LabelledImages data = blobs(95);
  const TrainingHistory history =
      train_classifier(*model.network, model.classifier(), data, short_run());
  ASSERT_EQ(history.epochs.size(), 4);
  EXPECT_GT(history.epochs.front().loss, history.epochs.back().loss);
  EXPECT_GE(accuracy(*model.network, model.classifier(), data), 0.97);
  EXPECT_TRUE(model.network->is_training());
}

TEST(Training, AResumedRunIsTheUninterruptedOne) {
  const LabelledImages data = blobs(64);
  TrainingOptions options = short_run();
  Model whole;
  const TrainingHistory expected =
      train_classifier(*whole.network, whole.classifier(), data, options);

  // Killed in the third epoch; the checkpoint is that of the second.
  options.checkpoint = temporary("checkpoint");
  Model killed;
  const Progress stop([](const std::string&, std::int64_t done, std::int64_t) {
    if (done == 17) throw Interrupted();
  });
  EXPECT_THROW(train_classifier(*killed.network, killed.classifier(), data, options, stop),
               Interrupted);
  Model resumed;
  // Whatever the generator did meanwhile.
  torch::manual_seed(99);
  options.resume = true;
  const TrainingHistory found =
      train_classifier(*resumed.network, resumed.classifier(), data, options);
  EXPECT_EQ(found.resumed_at, 2);
  ASSERT_EQ(found.epochs.size(), expected.epochs.size());
  for (std::size_t i = 0; i < found.epochs.size(); ++i) {
    EXPECT_EQ(found.epochs[i].loss, expected.epochs[i].loss);
    EXPECT_EQ(found.epochs[i].accuracy, expected.epochs[i].accuracy);
  }
  const NamedTensors state = state_of(*resumed.network);
  for (const auto& [name, tensor] : state_of(*whole.network)) {
    EXPECT_TRUE(torch::equal(tensor, state.at(name))) << name;
  }
  std::filesystem::remove(*options.checkpoint);
}

TEST(Training, RefusesTheCheckpointOfAnotherRun) {
  const LabelledImages data = blobs(40);
  TrainingOptions options = short_run();
  options.epochs = 2;
  options.checkpoint = temporary("other");
  Model model;
  train_classifier(*model.network, model.classifier(), data, options);
  options.resume = true;
  const auto expect_bad = [&](const TrainingOptions& changed, torch::nn::Module& module,
                              const Classifier& classifier, const std::string& words) {
    try {
      train_classifier(module, classifier, data, changed);
      ADD_FAILURE() << "accepted; expected: " << words;
    } catch (const BadFile& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(words));
    }
  };
  TrainingOptions changed = options;
  changed.learning_rate = 0.01;
  expect_bad(changed, *model.network, model.classifier(), "belongs to another run");
  changed = options;
  changed.variant = "precision bf16";
  expect_bad(changed, *model.network, model.classifier(), "this one has");
  torch::nn::Sequential other(torch::nn::Flatten(), torch::nn::Linear(4, 2));
  const Classifier classifier = [&](const Tensor& images) { return other->forward(images); };
  expect_bad(options, *other, classifier, "tensor 'model.1.bias': has another type or shape");
  // A finished run has nothing left to do.
  Model again;
  EXPECT_EQ(train_classifier(*again.network, again.classifier(), data, options).resumed_at, 2);
  std::filesystem::remove(*options.checkpoint);
}

TEST(Training, TheRateWarmsUpAndFallsAlongACosine) {
  TrainingOptions options;
  options.epochs = 10;
  options.learning_rate = 1;
  options.warmup_epochs = 2;
  options.final_share = 0.1;
  EXPECT_NEAR(scheduled_rate(options, 0, 5), 1.0 / 11, 1e-12);
  EXPECT_NEAR(scheduled_rate(options, 9, 5), 10.0 / 11, 1e-12);
  EXPECT_NEAR(scheduled_rate(options, 10, 5), 1, 1e-12);
  EXPECT_NEAR(scheduled_rate(options, 30, 5), 0.55, 1e-12);
  EXPECT_NEAR(scheduled_rate(options, 50, 5), 0.1, 1e-12);
}

TEST(Training, LeavesOutALastBatchOfOne) {
  Model model;  // its BatchNorm cannot train on one image
  TrainingOptions options = short_run();
  options.epochs = 1;
  std::int64_t batches = 0;
  const Classifier counting = [&](const Tensor& images) {
    ++batches;
    EXPECT_EQ(images.size(0), 10);
    return model.network->forward(images);
  };
  train_classifier(*model.network, counting, blobs(41), options);
  EXPECT_EQ(batches, 4);
}

TEST(Training, RefusesOptionsOutOfRange) {
  Model model;
  const LabelledImages data = blobs(20);
  const auto refused = [&](const std::function<void(TrainingOptions&)>& change) {
    TrainingOptions options = short_run();
    change(options);
    EXPECT_THROW(train_classifier(*model.network, model.classifier(), data, options),
                 InvalidArgument);
  };
  refused([](auto& o) { o.epochs = 0; });
  refused([](auto& o) { o.batch_size = 1; });
  refused([](auto& o) { o.learning_rate = 0; });
  refused([](auto& o) { o.warmup_epochs = 5; });
  refused([](auto& o) { o.label_smoothing = 1; });
  refused([](auto& o) { o.resume = true; });
  refused([](auto& o) { o.learning_rate = 1e30; });  // diverges, and says so
}

}  // namespace
}  // namespace einkorn::nn
