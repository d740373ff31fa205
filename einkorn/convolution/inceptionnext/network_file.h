// Networks as safetensors files under timm's key names. Files that einkorn writes also say, in
// their metadata, what network they are for.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "einkorn/convolution/inceptionnext/folded_network.h"
#include "einkorn/convolution/inceptionnext/network.h"
#include "einkorn/core/options.h"
#include "einkorn/nn/weights.h"

namespace einkorn::inceptionnext {

// What may be changed to make a file's weights fit a network.
enum class Fit {
  exact,     // nothing: every name and shape must be there
  transfer,  // the classifier keeps its own weights where the number of classes differs; the stem
             // sums or repeats input channels where their number differs (as timm does)
};

// A file's tensors, and the network that they are for if the file says so.
struct NetworkFile {
  std::string path;
  nn::NamedTensors tensors;
  std::optional<NetworkConfig> config;
  bool folded = false;  // no norms among the blocks: a FoldedNetwork's
};

// Throws BadFile for files that are not safetensors, for metadata that make no network, and for
// weights that are not finite.
NetworkFile read_network_file(const std::filesystem::path& path);

// Throws BadFile that names what does not fit.
void load_weights(NetworkImpl& network, const NetworkFile& file, Fit fit = Fit::exact);

void save_network(const OutputPath& path, const NetworkImpl& network);
void save_folded(const OutputPath& path, const FoldedNetwork& network);

}  // namespace einkorn::inceptionnext
