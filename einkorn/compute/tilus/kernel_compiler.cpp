#include "einkorn/compute/tilus/kernel_compiler.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <stdexcept>

#include "einkorn/core/error.h"
#include "einkorn/core/files/content.h"
#include "einkorn/core/text.h"

extern char** environ;

namespace einkorn::tilus {
namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

template <typename Function>
Function* symbol(void* library, const char* name) {
  void* const found = dlsym(library, name);
  if (found == nullptr) throw std::runtime_error(fmt::format("no function {} is there", name));
  return reinterpret_cast<Function*>(found);
}

void* open_library(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  }
  return nullptr;
}

// ---- NVRTC ----

class Nvrtc {
 public:
  // Null where the library is not there.
  static const Nvrtc* get() {
    static const std::unique_ptr<const Nvrtc> instance = []() -> std::unique_ptr<const Nvrtc> {
      void* const library = open_library({"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so",
                                          environment("CUDA_HOME") + "/lib64/libnvrtc.so",
                                          "/usr/local/cuda/lib64/libnvrtc.so"});
      if (library == nullptr) return nullptr;
      return std::unique_ptr<const Nvrtc>(new Nvrtc(library));
    }();
    return instance.get();
  }

  std::string name() const {
    int major = 0;
    int minor = 0;
    symbol<int(int*, int*)>(library_, "nvrtcVersion")(&major, &minor);
    return fmt::format("NVRTC {}.{}", major, minor);
  }

  std::vector<std::byte> compile(const std::string& text, const std::string& architecture) const {
    void* program = nullptr;
    check(
        symbol<int(void**, const char*, const char*, int, const char* const*, const char* const*)>(
            library_, "nvrtcCreateProgram")(&program, text.c_str(), "tilus.cu", 0, nullptr,
                                            nullptr),
        "nvrtcCreateProgram");
    const std::string target = "--gpu-architecture=" + architecture;
    const char* const options[] = {target.c_str(), "--std=c++17"};
    const int status = symbol<int(void*, int, const char* const*)>(library_, "nvrtcCompileProgram")(
        program, 2, options);
    const std::string words = log_of(program);
    std::vector<std::byte> image;
    if (status == 0) image = image_of(program);
    symbol<int(void**)>(library_, "nvrtcDestroyProgram")(&program);
    if (status != 0) throw std::runtime_error("NVRTC: " + words);
    return image;
  }

 private:
  explicit Nvrtc(void* library) : library_(library) {}

  static void check(int status, const char* what) {
    if (status != 0) throw std::runtime_error(fmt::format("{}: error {}", what, status));
  }

  std::string log_of(void* program) const {
    std::size_t size = 0;
    check(symbol<int(void*, std::size_t*)>(library_, "nvrtcGetProgramLogSize")(program, &size),
          "nvrtcGetProgramLogSize");
    std::string text(size, '\0');
    check(symbol<int(void*, char*)>(library_, "nvrtcGetProgramLog")(program, text.data()),
          "nvrtcGetProgramLog");
    return std::string(trim(text.c_str()));
  }

  std::vector<std::byte> image_of(void* program) const {
    std::size_t size = 0;
    check(symbol<int(void*, std::size_t*)>(library_, "nvrtcGetCUBINSize")(program, &size),
          "nvrtcGetCUBINSize");
    std::vector<std::byte> image(size);
    check(symbol<int(void*, char*)>(library_, "nvrtcGetCUBIN")(
              program, reinterpret_cast<char*>(image.data())),
          "nvrtcGetCUBIN");
    return image;
  }

  void* library_;
};

// ---- nvcc ----

std::optional<std::string> nvcc_path() {
  std::vector<std::string> candidates = {environment("CUDACXX")};
  for (const std::string& folder : split(environment("PATH"), ':')) {
    candidates.push_back(folder + "/nvcc");
  }
  candidates.push_back(environment("CUDA_HOME") + "/bin/nvcc");
  candidates.emplace_back("/usr/local/cuda/bin/nvcc");
  for (const std::string& path : candidates) {
    if (!path.empty() && access(path.c_str(), X_OK) == 0 && !fs::is_directory(path)) return path;
  }
  return std::nullopt;
}

// A folder that goes away with what is in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "einkorn-tilus-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) {
      throw std::runtime_error("no folder for temporary files can be made");
    }
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// Runs a program without a shell, its output into a file. Returns its exit status.
int run_program(const std::vector<std::string>& words, const fs::path& output) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  pid_t child = 0;
  const int failed =
      posix_spawn(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return -1;
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::vector<std::byte> compile_with_nvcc(const std::string& nvcc, const std::string& text,
                                         const std::string& architecture) {
  const TemporaryFolder folder;
  const fs::path source = folder.path() / "tilus.cu";
  const fs::path image = folder.path() / "tilus.cubin";
  const fs::path words = folder.path() / "log";
  write_text({source, true}, text);
  const std::string compute = "compute_" + architecture.substr(architecture.find('_') + 1);
  const int status = run_program(
      {nvcc, "-cubin", "-std=c++17", "-O3", "-gencode=arch=" + compute + ",code=" + architecture,
       "-o", image.string(), source.string()},
      words);
  if (status != 0) {
    throw std::runtime_error(fmt::format("{}: {}", nvcc, trim(read_text(words))));
  }
  return read_content(image);
}

// ---- cache ----

std::uint64_t hash(const std::string& text, std::uint64_t seed) {
  std::uint64_t value = seed;  // FNV-1a
  for (const char character : text) {
    value = (value ^ static_cast<unsigned char>(character)) * 0x100000001b3ULL;
  }
  return value;
}

}  // namespace

fs::path kernel_cache() {
  if (const std::string folder = environment("EINKORN_CACHE"); !folder.empty()) {
    return fs::path(folder) / "tilus";
  }
  if (const std::string folder = environment("XDG_CACHE_HOME"); !folder.empty()) {
    return fs::path(folder) / "einkorn" / "tilus";
  }
  const std::string home = environment("HOME");
  return home.empty() ? fs::path() : fs::path(home) / ".cache" / "einkorn" / "tilus";
}

std::string cache_key(const std::string& source, const std::string& architecture,
                      const std::string& compiler) {
  const std::string all = architecture + "\n" + compiler + "\n" + source;
  return fmt::format("{:016x}{:016x}", hash(all, 0xcbf29ce484222325ULL),
                     hash(all, 0x9e3779b97f4a7c15ULL));
}

std::string cuda_compiler() {
  if (const Nvrtc* const nvrtc = Nvrtc::get()) return nvrtc->name();
  const std::optional<std::string> nvcc = nvcc_path();
  return nvcc ? "nvcc " + *nvcc : "";
}

CompiledKernel compile_cuda(const CudaSource& source, const CompileOptions& options) {
  const bool is_name =
      options.architecture.starts_with("sm_") && options.architecture.size() <= 8 &&
      options.architecture.find_first_not_of("0123456789abcdefghijklmnopqrstuvwxyz_") ==
          std::string::npos;
  require(is_name, "architecture '{}': expected a name such as sm_90a", options.architecture);
  CompiledKernel kernel;
  kernel.compiler = cuda_compiler();
  require(!kernel.compiler.empty(),
          "no CUDA compiler: expected libnvrtc.so, or nvcc in PATH or $CUDACXX");
  const fs::path folder = options.cache.empty() ? kernel_cache() : options.cache;
  const bool caches = options.use_cache && !folder.empty();
  const fs::path place =
      folder / (cache_key(source.text, options.architecture, kernel.compiler) + ".cubin");
  std::error_code ignored;
  if (caches && fs::is_regular_file(place, ignored)) {
    kernel.image = read_content(place);
    kernel.from_cache = true;
    return kernel;
  }
  const Nvrtc* const nvrtc = Nvrtc::get();
  kernel.image = nvrtc != nullptr
                     ? nvrtc->compile(source.text, options.architecture)
                     : compile_with_nvcc(*nvcc_path(), source.text, options.architecture);
  if (caches) {
    fs::create_directories(folder, ignored);
    try {
      write_content({place, true}, kernel.image);
    } catch (const BadFile&) {
      // Compiled all the same.
    }
  }
  return kernel;
}

// ---- driver ----

namespace {

class Driver {
 public:
  static const Driver& get() {
    static const Driver driver;
    return driver;
  }

  template <typename... Parameters, typename... Arguments>
  void call(const char* name, int (*)(Parameters...), Arguments... arguments) const {
    const int status = symbol<int(Parameters...)>(library_, name)(arguments...);
    if (status == 0) return;
    const char* words = "unknown error";
    symbol<int(int, const char**)>(library_, "cuGetErrorString")(status, &words);
    throw std::runtime_error(fmt::format("{}: {}", name, words));
  }

 private:
  Driver() : library_(open_library({"libcuda.so.1", "libcuda.so"})) {
    if (library_ == nullptr) throw std::runtime_error("no CUDA driver: libcuda.so is not there");
    call("cuInit", static_cast<int (*)(unsigned)>(nullptr), 0u);
  }

  void* library_;
};

constexpr int max_dynamic_shared_size = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

}  // namespace

LoadedKernel::LoadedKernel(const CompiledKernel& kernel, const CudaSource& source)
    : threads_(static_cast<unsigned>(source.threads)),
      shared_bytes_(static_cast<unsigned>(source.shared_bytes)) {
  const Driver& driver = Driver::get();
  driver.call("cuModuleLoadData", static_cast<int (*)(void**, const void*)>(nullptr), &module_,
              static_cast<const void*>(kernel.image.data()));
  driver.call("cuModuleGetFunction", static_cast<int (*)(void**, void*, const char*)>(nullptr),
              &function_, module_, source.kernel.c_str());
  driver.call("cuFuncSetAttribute", static_cast<int (*)(void*, int, int)>(nullptr), function_,
              max_dynamic_shared_size, static_cast<int>(shared_bytes_));
}

LoadedKernel::~LoadedKernel() {
  try {
    Driver::get().call("cuModuleUnload", static_cast<int (*)(void*)>(nullptr), module_);
  } catch (const std::exception&) {
    // The context may be gone already.
  }
}

void LoadedKernel::launch(const std::array<unsigned, 3>& grid, std::vector<void*>& arguments,
                          void* stream) const {
  if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) return;
  using Launch = int (*)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                         unsigned, void*, void**, void**);
  Driver::get().call("cuLaunchKernel", static_cast<Launch>(nullptr), function_, grid[0], grid[1],
                     grid[2], threads_, 1u, 1u, shared_bytes_, stream, arguments.data(),
                     static_cast<void**>(nullptr));
}

}  // namespace einkorn::tilus
