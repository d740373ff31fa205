#include "einkorn/compute/kivi/attend_launch.cuh"

namespace einkorn::kivi {

void launch_attend_f16(const AttendArguments& args, const AttendVariant& variant, void* stream) {
  launch_variant<__half>(args, variant, static_cast<cudaStream_t>(stream));
}

}  // namespace einkorn::kivi
