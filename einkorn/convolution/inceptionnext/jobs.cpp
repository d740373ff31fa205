#include "einkorn/convolution/inceptionnext/jobs_internal.h"

#include <fmt/ranges.h>
#include <torch/torch.h>

#include <numeric>

#include "einkorn/convolution/inceptionnext/folded_network.h"
#include "einkorn/convolution/inceptionnext/image_input.h"
#include "einkorn/convolution/inceptionnext/mixed_precision.h"
#include "einkorn/convolution/inceptionnext/network.h"
#include "einkorn/convolution/inceptionnext/network_file.h"
#include "einkorn/convolution/inceptionnext/receptive_field.h"
#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/files/npy.h"
#include "einkorn/core/tensor.h"
#include "einkorn/core/text.h"
#include "einkorn/nn/image.h"
#include "einkorn/nn/training.h"

namespace einkorn::inceptionnext {
namespace {

using torch::Tensor;

Option model_option() {
  return choice("model", config_names());
}

Option weights_option() {
  return input_file("weights").help("safetensors file under timm's key names");
}

// The file's own network, or the one that --model names for files that do not say.
NetworkConfig config_for(const Options& options, const NetworkFile& file) {
  if (options.has("model")) {
    NetworkConfig config = named_config(options.text("model"));
    const auto classifier =
        file.tensors.find(config.frame == Frame::metanext ? "head.fc2.bias" : "head.fc.bias");
    if (classifier != file.tensors.end() && classifier->second.dim() == 1) {
      config.classes = classifier->second.size(0);
    }
    return config;
  }
  if (!file.config) {
    throw BadFile(file.path, "metadata", "does not say what network it is for; name it (--model)");
  }
  return *file.config;
}

// describe

NetworkConfig described_config(const Options& options) {
  NetworkConfig config = named_config(options.text("model"));
  if (options.has("classes")) config.classes = options.integer("classes");
  if (options.has("in-channels")) config.in_channels = options.integer("in-channels");
  if (options.has("mixer")) config.mixer = parse_mixer(options.text("mixer"));
  if (options.has("kernel-size")) config.kernel_size = options.integer("kernel-size");
  if (options.has("convolved-share")) config.convolved_share = options.real("convolved-share");
  if (options.has("branch-ratio")) config.branch_ratio = options.real("branch-ratio");
  if (options.has("band-size")) config.band_size = options.integer("band-size");
  return config;
}

Table stage_table(const NetworkCount& counts) {
  Table table{"Stages",
              {"stage", "blocks", "map", "channels", "convolved group", "identity", "hidden",
               "mixer parameters", "mixer MACs", "block parameters", "block MACs"},
              {}};
  for (std::size_t i = 0; i < counts.stages.size(); ++i) {
    const StageCount& stage = counts.stages[i];
    table.rows.push_back({static_cast<std::int64_t>(i), stage.blocks,
                          fmt::format("{} x {}", stage.height, stage.width), stage.channels,
                          stage.branch_channels, stage.identity_channels, stage.hidden,
                          stage.mixer_parameters, stage.mixer_macs, stage.block_parameters,
                          stage.block_macs});
  }
  return table;
}

void write_kernels(const OutputPath& path, const NetworkImpl& network) {
  std::map<std::string, NpyArray> arrays;
  for (const auto& [name, kernels] : spatial_kernels(network)) {
    const Tensor values = kernels.to(at::kDouble).contiguous();
    arrays.emplace(name, npy_from_doubles({values.const_data_ptr<double>(),
                                           static_cast<std::size_t>(values.numel())},
                                          values.sizes().vec()));
  }
  write_npz(path, arrays);
}

Report run_describe(const Options& options, const Progress& progress) {
  NetworkConfig config = described_config(options);
  const std::int64_t resolution =
      options.has("resolution") ? options.integer("resolution") : config.resolution;
  const NetworkCount counts = count(config, resolution, resolution);
  Report report;
  report.set("parameters", counts.parameters);
  report.set("macs", counts.macs, "multiply-adds");
  report.tables.push_back(stage_table(counts));
  if (!options.has("receptive-field") && !options.has("kernels")) return report;

  torch::manual_seed(options.seed());
  Network network(config);
  if (options.has("weights")) load_weights(*network, read_network_file(options.input("weights")));
  if (options.has("kernels")) write_kernels(options.output("kernels"), *network);
  if (options.has("receptive-field")) {
    progress("effective receptive field", 0, 0);
    const Tensor images =
        torch::randn({options.integer("images"), config.in_channels, resolution, resolution});
    const Tensor field = effective_receptive_field(*network, images);
    write_tensor(options.output("receptive-field"), field);
    report.set("area_with_half", area_with_share(field, 0.5), "of the image");
    report.set("area_with_99_percent", area_with_share(field, 0.99), "of the image");
  }
  if (!options.has("weights")) report.notes.push_back("weights are random: no --weights given");
  return report;
}

// train

nn::TrainingOptions training_options(const Options& options) {
  nn::TrainingOptions how;
  how.epochs = options.integer("epochs");
  how.batch_size = options.integer("batch-size");
  how.learning_rate = options.real("learning-rate");
  how.warmup_epochs = std::min(options.real("warmup-epochs"), static_cast<double>(how.epochs));
  how.weight_decay = options.real("weight-decay");
  how.label_smoothing = options.real("label-smoothing");
  how.seed = options.seed();
  how.variant = "precision " + options.text("precision");
  how.resume = options.flag("resume");
  if (options.has("checkpoint")) how.checkpoint = options.text("checkpoint");
  require(!how.resume || how.checkpoint, "--resume needs --checkpoint");
  if (how.checkpoint && std::filesystem::exists(*how.checkpoint) && !how.resume &&
      !options.force()) {
    throw BadFile(how.checkpoint->string(), "",
                  "exists; --resume goes on from it, --force starts anew (--checkpoint)");
  }
  return how;
}

Plot loss_plot(const nn::TrainingHistory& history) {
  Plot plot{"Training loss", "epoch", "cross-entropy (nats)", {}, false, true};
  Series series{"loss", {}, {}, Mark::line_points};
  for (const nn::EpochRecord& epoch : history.epochs) {
    series.x.push_back(static_cast<double>(series.x.size() + 1));
    series.y.push_back(epoch.loss);
  }
  plot.series.push_back(std::move(series));
  return plot;
}

Report run_train(const Options& options, const Progress& progress) {
  require_available(options.device());
  require(options.text("precision") == "f32" || options.device() == Device::cuda,
          "--precision: bf16 needs --device cuda");
  const at::Device device = to_torch(options.device());
  const nn::TrainingOptions how = training_options(options);
  const nn::DataSplit data = nn::digits();
  NetworkConfig config = named_config(options.text("model"));
  config.in_channels = data.train.images.size(1);
  config.classes = data.train.classes;
  config.resolution = data.train.images.size(2);
  config.crop_share = 1;
  config.drop_path = options.real("drop-path");
  if (options.has("mixer")) config.mixer = parse_mixer(options.text("mixer"));

  torch::manual_seed(options.seed());
  Network network(config);
  if (options.has("weights")) {
    load_weights(*network, read_network_file(options.input("weights")), Fit::transfer);
  }
  network->to(device);
  const auto on_device = [&](const nn::LabelledImages& some) {
    return nn::LabelledImages{some.images.to(device), some.labels.to(device), some.classes};
  };
  const bool mixed = options.text("precision") == "bf16";
  const nn::Classifier classifier = [&](const Tensor& images) {
    return mixed && network->is_training() ? mixed_precision_forward(*network, images)
                                           : network->forward(images);
  };
  const auto history =
      nn::train_classifier(*network, classifier, on_device(data.train), how, progress);
  const double test = nn::accuracy(*network, classifier, on_device(data.test));
  network->to(at::kCPU);
  save_network(options.output("out"), *network);

  Report report;
  report.set("test_accuracy", test);
  report.set("train_accuracy", history.epochs.back().accuracy);
  report.set("train_loss", history.epochs.back().loss, "nats");
  report.set("epochs", static_cast<std::int64_t>(history.epochs.size()));
  report.set("resumed_at", history.resumed_at, "epochs");
  report.set("parameters", count(config, config.resolution, config.resolution).parameters);
  report.plots.push_back(loss_plot(history));
  return report;
}

// classify

// Either kind of network, ready to run.
class Runner {
 public:
  Runner(const NetworkFile& file, const NetworkConfig& config, Device device) {
    const torch::NoGradGuard no_grad;
    if (file.folded) {
      folded_.emplace(config, file.tensors, file.path);
    } else {
      network_ = Network(config);
      load_weights(*network_, file);
      network_->eval();
      // Without norms where they can be folded.
      if (config.frame == Frame::metanext) folded_.emplace(*network_);
    }
    if (folded_) folded_->to(to_torch(device), at::kFloat);
    if (network_) network_->to(to_torch(device));
  }

  Tensor logits(const Tensor& images) {
    const torch::NoGradGuard no_grad;
    return folded_ ? folded_->forward(images) : network_->forward(images);
  }

 private:
  Network network_{nullptr};
  std::optional<FoldedNetwork> folded_;
};

std::vector<std::string> class_names(const Options& options, std::int64_t classes) {
  if (!options.has("labels")) return {};
  const std::string path = options.input("labels").string();
  std::vector<std::string> names;
  for (const std::string& line : split(read_text(path), '\n')) {
    const auto name = trim(line);
    if (!name.empty()) names.emplace_back(name);
  }
  if (static_cast<std::int64_t>(names.size()) != classes) {
    throw BadFile(path, "",
                  fmt::format("has {} names, the network {} classes", names.size(), classes));
  }
  return names;
}

Report run_classify(const Options& options, const Progress& progress) {
  require_available(options.device());
  const NetworkFile file = read_network_file(options.input("weights"));
  const NetworkConfig config = config_for(options, file);
  const std::int64_t resolution =
      options.has("resolution") ? options.integer("resolution") : config.resolution;
  const std::vector<std::string> names = class_names(options, config.classes);
  Runner runner(file, config, options.device());
  const std::int64_t shown = std::min(options.integer("top"), config.classes);
  Report report;
  Table table{"Classes", {"image", "rank", "class", "name", "probability"}, {}};
  std::vector<std::int64_t> best;
  std::vector<double> best_probabilities;
  const std::vector<std::string> paths = split(options.text("images"), ',');
  for (const std::string& path : paths) {
    progress("classifying", static_cast<std::int64_t>(best.size()),
             static_cast<std::int64_t>(paths.size()));
    const Tensor input = image_input(nn::read_image(path), config, resolution);
    const Tensor probabilities =
        runner.logits(input.to(to_torch(options.device()))).softmax(1)[0].to(at::kCPU);
    const auto [values, classes] = probabilities.topk(shown);
    for (std::int64_t rank = 0; rank < shown; ++rank) {
      const auto index = classes[rank].item<std::int64_t>();
      table.rows.push_back({path, rank + 1, index,
                            names.empty() ? "" : names[static_cast<std::size_t>(index)],
                            values[rank].item<double>()});
    }
    best.push_back(classes[0].item<std::int64_t>());
    best_probabilities.push_back(values[0].item<double>());
  }
  report.set("classes", best);
  report.set("probabilities", best_probabilities);
  report.tables.push_back(std::move(table));
  return report;
}

// fold

Report run_fold(const Options& options, const Progress&) {
  const torch::NoGradGuard no_grad;
  const NetworkFile file = read_network_file(options.input("weights"));
  if (file.folded) throw BadFile(file.path, "", "is folded already");
  const NetworkConfig config = config_for(options, file);
  Network network(config);
  load_weights(*network, file);
  network->eval();
  const FoldedNetwork folded(*network);
  torch::manual_seed(options.seed());
  const Tensor images = torch::randn(
      {options.integer("images"), config.in_channels, config.resolution, config.resolution});
  const Tensor expected = network->forward(images);
  const double largest = expected.abs().max().item<double>();
  const double error = (folded.forward(images) - expected).abs().max().item<double>();
  save_folded(options.output("out"), folded);
  std::int64_t after = 0;
  for (const auto& [name, tensor] : folded.state()) after += tensor.numel();
  Report report;
  report.set("max_error", largest > 0 ? error / largest : error, "of the largest logit");
  report.set("parameters_before", count(config, config.resolution, config.resolution).parameters);
  report.set("parameters_after", after);
  return report;
}

Job describe_job() {
  return {"describe",
          "exact numbers of parameters and multiply-adds of a network, in all and by stage",
          {model_option().otherwise("tiny").help("which network"),
           integer("resolution")
               .at_least(1)
               .unit("pixels")
               .help("side of the images (default: the network's own)"),
           integer("classes").at_least(1).help("classes (default: the network's own)"),
           integer("in-channels").at_least(1).help("channels of the images"),
           choice("mixer", {"inception", "depthwise", "identity"}).help("another token mixer"),
           integer("kernel-size").at_least(1).help("depthwise mixer: taps a side, odd"),
           real("convolved-share")
               .above(0)
               .at_most(1)
               .help("depthwise mixer: share of the channels that is convolved"),
           real("branch-ratio")
               .above(0)
               .at_most(1.0 / 3)
               .help("Inception mixer: share of the channels in each branch"),
           integer("band-size").at_least(1).help("Inception mixer: taps of the bands, odd"),
           weights_option(),
           output_file("receptive-field")
               .help("write the effective receptive field [H, W] to this .npy"),
           output_file("kernels").help("write every block's spatial kernels to this .npz"),
           integer("images").at_least(1).otherwise(4).help(
               "random images that the receptive field is averaged over"),
           seed_option()},
          run_describe,
          {"inceptionnext describe --model tiny",
           "inceptionnext describe --model convnext-tiny --kernel-size 3 --convolved-share 0.125"}};
}

Job train_job() {
  return {"train",
          "train a network",
          {choice("data", {"digits"})
               .otherwise("digits")
               .help("scikit-learn's handwritten digits, enlarged to 32 x 32"),
           model_option().otherwise("toy").help("which network"),
           choice("mixer", {"inception", "depthwise", "identity"})
               .help("token mixer (default: the network's own)"),
           integer("epochs").at_least(1).otherwise(30).help("passes over the data"),
           integer("batch-size").at_least(2).otherwise(64).help("images a step"),
           real("learning-rate").above(0).otherwise(2e-3).help("highest rate, of AdamW"),
           real("warmup-epochs")
               .at_least(0)
               .otherwise(1)
               .help("epochs over which the rate grows; a cosine follows"),
           real("weight-decay").at_least(0).otherwise(0.05).help("of matrices and kernels"),
           real("label-smoothing").at_least(0).below(1).otherwise(0).help("share of all classes"),
           real("drop-path")
               .at_least(0)
               .below(1)
               .otherwise(0)
               .help("rate at which the last block is dropped"),
           weights_option(),
           choice("precision", {"f32", "bf16"})
               .otherwise("f32")
               .help("of activations and matrix products; weights and sums are f32 (bf16: cuda)"),
           output_file("out").required().help("write the trained weights to this safetensors file"),
           text("checkpoint").help("file that holds the state of the run after every epoch"),
           flag("resume").help("go on from the checkpoint, if it is there"), seed_option(),
           device_option()},
          run_train,
          {"inceptionnext train --epochs 10 --out digits.safetensors",
           "inceptionnext train --out digits.safetensors --checkpoint run.ckpt --resume"}};
}

Job classify_job() {
  return {"classify",
          "the most probable classes of images",
          {weights_option().required(),
           text("images").positional().required().help(
               "PNG, JPEG, BMP, PNM or .npy [height, width, 3] u8; several separated by commas"),
           model_option().help("the network, for weights that do not say"),
           integer("resolution")
               .at_least(1)
               .unit("pixels")
               .help("side of the crop (default: the network's own)"),
           integer("top").at_least(1).otherwise(5).help("how many classes of each image"),
           input_file("labels").help("names of the classes, one a line"), device_option()},
          run_classify,
          {"inceptionnext classify --weights inceptionnext_tiny.safetensors --model tiny cat.jpg"}};
}

Job fold_job() {
  return {"fold",
          "fold norms and layer scales into the layers beside them, for inference",
          {weights_option().positional().required(),
           model_option().help("the network, for weights that do not say"),
           output_file("out").required().help("write the folded weights to this safetensors file"),
           integer("images").at_least(1).otherwise(2).help(
               "random images on which both networks are compared"),
           seed_option()},
          run_fold,
          {"inceptionnext fold digits.safetensors --out folded.safetensors"}};
}

}  // namespace

std::vector<Job> jobs() {
  return {describe_job(), train_job(), classify_job(), fold_job()};
}

}  // namespace einkorn::inceptionnext
