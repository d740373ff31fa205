#include "einkorn/core/files/content.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>

#include "einkorn/core/error.h"
#include "einkorn/core/files/inflate_internal.h"

namespace einkorn {
namespace {

std::vector<std::byte> read_raw(const std::filesystem::path& path, std::size_t limit);
std::filesystem::path checked_target(const OutputPath& output);
std::string system_message(int code);

// A file with a name of its own beside the target; gone at the end unless it was published.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::filesystem::path& target);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(std::span<const std::byte> content);

  // Closes the file and gives it the target's name.
  void publish();

 private:
  [[noreturn]] void fail(int code) const;

  std::filesystem::path target_;
  std::filesystem::path name_;
  int descriptor_ = -1;
};

}  // namespace

std::vector<std::byte> read_content(const std::filesystem::path& path, std::size_t limit) {
  std::vector<std::byte> content = read_raw(path, limit);
  if (is_gzip(content)) return expand_gzip(content, path.string(), limit);
  return content;
}

std::string read_text(const std::filesystem::path& path, std::size_t limit) {
  const std::vector<std::byte> content = read_content(path, limit);
  return std::string(reinterpret_cast<const char*>(content.data()), content.size());
}

void write_content(const OutputPath& output, std::span<const std::byte> content) {
  TemporaryFile file(checked_target(output));
  file.write(content);
  file.publish();
}

void write_text(const OutputPath& output, const std::string& text) {
  write_content(output, std::as_bytes(std::span(text.data(), text.size())));
}

namespace {

std::vector<std::byte> read_raw(const std::filesystem::path& path, std::size_t limit) {
  const auto fail = [&](int code) {
    throw BadFile(path.string(), "", fmt::format("cannot be read: {}", system_message(code)));
  };
  const auto refuse_size = [&] {
    throw BadFile(path.string(), "",
                  fmt::format("is larger than {} bytes, the most that is read", limit));
  };
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(errno);
  const struct Closer {
    int descriptor;
    ~Closer() { ::close(descriptor); }
  } closer{descriptor};

  struct stat status{};
  if (::fstat(descriptor, &status) != 0) fail(errno);
  if (S_ISDIR(status.st_mode)) throw BadFile(path.string(), "", "is a folder, expected a file");
  const std::size_t announced =
      S_ISREG(status.st_mode) ? static_cast<std::size_t>(status.st_size) : 0;
  if (announced > limit) refuse_size();

  // The size is only a hint: pipes have none, and a file may grow while it is read. The byte beyond
  // it lets the end of the file show without another round of growing.
  std::vector<std::byte> content(announced + 1);
  std::size_t size = 0;
  while (true) {
    if (size == content.size()) content.resize(std::max<std::size_t>(2 * size, 1 << 16));
    const ssize_t got = ::read(descriptor, content.data() + size, content.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(errno);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
    if (size > limit) refuse_size();
  }
  content.resize(size);
  return content;
}

std::filesystem::path checked_target(const OutputPath& output) {
  std::error_code ignored;
  std::filesystem::path target = output.path;
  // Through a link: what it points to is replaced, not the link.
  if (std::filesystem::is_symlink(target, ignored)) {
    target = std::filesystem::weakly_canonical(target, ignored);
  }
  const std::filesystem::file_status status = std::filesystem::status(target, ignored);
  if (!std::filesystem::exists(status)) return target;
  const std::string path = output.path.string();
  if (std::filesystem::is_directory(status)) {
    throw BadFile(path, "", "is a folder, expected a file");
  }
  if (!std::filesystem::is_regular_file(status)) {
    throw BadFile(path, "", "is not a regular file, which alone can be replaced");
  }
  if (!output.force) throw BadFile(path, "", "exists; --force replaces it");
  return target;
}

std::string system_message(int code) {
  return std::generic_category().message(code);
}

TemporaryFile::TemporaryFile(const std::filesystem::path& target) : target_(target) {
  static std::atomic<unsigned> counter{0};
  // A name may be taken by the remains of another process with the same number.
  for (int attempt = 0; attempt < 100 && descriptor_ < 0; ++attempt) {
    name_ = target.parent_path() / fmt::format(".einkorn-{}-{}.partial", ::getpid(), counter++);
    descriptor_ = ::open(name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST) break;
  }
  if (descriptor_ < 0) fail(errno);
  struct stat status{};
  if (::stat(target.c_str(), &status) == 0) ::fchmod(descriptor_, status.st_mode & 0777);
}

TemporaryFile::~TemporaryFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!name_.empty()) ::unlink(name_.c_str());
}

void TemporaryFile::write(std::span<const std::byte> content) {
  while (!content.empty()) {
    const ssize_t put = ::write(descriptor_, content.data(), content.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail(errno);
    content = content.subspan(static_cast<std::size_t>(put));
  }
}

void TemporaryFile::publish() {
  const int descriptor = descriptor_;
  descriptor_ = -1;
  // Network file systems report a full disk only here.
  if (::close(descriptor) != 0) fail(errno);
  if (::rename(name_.c_str(), target_.c_str()) != 0) fail(errno);
  name_.clear();
}

void TemporaryFile::fail(int code) const {
  throw BadFile(target_.string(), "", fmt::format("cannot be written: {}", system_message(code)));
}

}  // namespace
}  // namespace einkorn
