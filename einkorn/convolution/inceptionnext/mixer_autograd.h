// The Inception mixer as models call it: through torch's dispatcher, with gradients.
#pragma once

#include "einkorn/convolution/inceptionnext/inception_mixer.h"

namespace einkorn::inceptionnext {

// torch.ops.einkorn.inception_dwconv: inception_dwconv of inception_mixer.h, differentiable to any
// order.
at::Tensor differentiable_inception_dwconv(const at::Tensor& x, const MixerWeights& weights);

}  // namespace einkorn::inceptionnext
