#include <ATen/autocast_mode.h>

#include "einkorn/convolution/inceptionnext/mixed_precision.h"
#include "einkorn/convolution/inceptionnext/stock_network_internal.h"
#include "einkorn/convolution/inceptionnext/training_step_internal.h"

#if EINKORN_WITH_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#endif

namespace einkorn::inceptionnext {
namespace {

Network network_on_cuda(const std::string& model) {
  Network network(named_config(model));
  network->to(at::kCUDA);
  return network;
}

}  // namespace

Autocast::Autocast(bool enabled) : before_(at::autocast::is_autocast_enabled(at::kCUDA)) {
  at::autocast::set_autocast_enabled(at::kCUDA, enabled);
  at::autocast::set_autocast_dtype(at::kCUDA, at::kBFloat16);
}

Autocast::~Autocast() {
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCUDA, before_);
}

FusedAdamW::FusedAdamW(std::vector<at::Tensor> parameters) : parameters_(std::move(parameters)) {
  for (const at::Tensor& parameter : parameters_) {
    means_.push_back(at::zeros_like(parameter));
    squares_.push_back(at::zeros_like(parameter));
    steps_.push_back(at::zeros({}, parameter.options().dtype(at::kFloat)));
  }
}

void FusedAdamW::step() {
  const torch::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& parameter : parameters_) gradients.push_back(parameter.grad());
  at::_foreach_add_(steps_, 1);
  at::_fused_adamw_(parameters_, gradients, means_, squares_, {}, steps_, /*lr=*/1e-3,
                    /*beta1=*/0.9, /*beta2=*/0.999, /*weight_decay=*/0.05, /*eps=*/1e-8,
                    /*amsgrad=*/false, /*maximize=*/false);
}

void set_memory_format(NetworkImpl& network, at::MemoryFormat format) {
  for (at::Tensor& parameter : network.parameters()) {
    if (parameter.dim() == 4) parameter.set_data(parameter.detach().contiguous(format));
  }
}

TrainingStep::TrainingStep(const std::string& model, std::int64_t images, at::ScalarType type,
                           Operators operators, at::MemoryFormat format)
    : network_(network_on_cuda(model)), type_(type), operators_(operators), optimizer_([&] {
        if (operators == Operators::stock) set_memory_format(*network_, format);
        return network_->parameters();
      }()) {
  network_->train();
  const auto on_cuda = torch::dtype(at::kFloat).device(at::kCUDA);
  images_ = torch::randn({images, 3, 224, 224}, on_cuda).contiguous(format);
  if (operators == Operators::ours) images_ = images_.to(type);
  labels_ = torch::arange(images, on_cuda.dtype(at::kLong)).remainder(network_->config().classes);
}

at::Tensor TrainingStep::logits() {
  if (operators_ == Operators::ours) return mixed_precision_forward(*network_, images_, type_);
  const Autocast autocast(type_ == at::kBFloat16);
  return stock_forward(*network_, images_);
}

void TrainingStep::run() {
  network_->zero_grad();
  at::cross_entropy_loss(logits().to(at::kFloat), labels_).backward();
  optimizer_.step();
}

#if EINKORN_WITH_CUDA
struct TrainingStep::Recording {
  at::cuda::CUDAGraph graph;
};

void TrainingStep::record() {
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  c10::cuda::getCurrentCUDAStream().synchronize();
  const c10::cuda::CUDAStreamGuard guard(stream);
  for (int i = 0; i < 3; ++i) run();  // what is set up at first use must not be recorded
  stream.synchronize();
  recording_ = std::make_unique<Recording>();
  recording_->graph.capture_begin();
  run();
  recording_->graph.capture_end();
}

void TrainingStep::operator()() {
  if (!recording_) record();
  recording_->graph.replay();
}
#else
struct TrainingStep::Recording {};

void TrainingStep::operator()() {
  run();
}
#endif

TrainingStep::~TrainingStep() = default;

}  // namespace einkorn::inceptionnext
