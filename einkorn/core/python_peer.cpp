#include "einkorn/core/python_peer.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>

#include "einkorn/core/error.h"
#include "einkorn/core/text.h"

namespace einkorn {
namespace {

// Reads the set-up's length, the set-up, and the statement; answers "ready" or why not; then times
// the statement once for each line that comes in.
constexpr const char* driver = R"(
import sys, time
lines = sys.stdin
setup = lines.read(int(lines.readline()))
statement = compile(lines.read(int(lines.readline())), 'peer', 'exec')
out = sys.stdout
sys.stdout = sys.stderr
names = {}
try:
    exec(compile(setup, 'setup', 'exec'), names)
except ImportError as error:
    print(error, file=out, flush=True)
    sys.exit(0)
print('ready', file=out, flush=True)
for line in lines:
    begin = time.perf_counter()
    exec(statement, names)
    print(time.perf_counter() - begin, file=out, flush=True)
)";

std::string interpreter() {
  if (const char* named = std::getenv("EINKORN_PYTHON")) return named;
#ifdef EINKORN_DEFAULT_PYTHON
  if (access(EINKORN_DEFAULT_PYTHON, X_OK) == 0) return EINKORN_DEFAULT_PYTHON;
#endif
  return "python3";
}

// A Python process with its standard input and output as files here.
class PythonProcess {
 public:
  explicit PythonProcess(const std::string& code) {
    int in[2];
    int out[2];
    if (pipe2(in, O_CLOEXEC) != 0) throw std::runtime_error("cannot make a pipe");
    if (pipe2(out, O_CLOEXEC) != 0) {
      close(in[0]);
      close(in[1]);
      throw std::runtime_error("cannot make a pipe");
    }
    const std::string program = interpreter();
    process_ = fork();
    if (process_ == 0) {
      dup2(in[0], STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      execlp(program.c_str(), program.c_str(), "-c", code.c_str(), static_cast<char*>(nullptr));
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    to_ = fdopen(in[1], "w");
    from_ = fdopen(out[0], "r");
    if (process_ < 0) throw std::runtime_error("cannot start Python");
  }

  PythonProcess(const PythonProcess&) = delete;
  PythonProcess& operator=(const PythonProcess&) = delete;

  ~PythonProcess() {
    if (to_ != nullptr) std::fclose(to_);
    if (from_ != nullptr) std::fclose(from_);
    if (process_ > 0) waitpid(process_, nullptr, 0);
  }

  // Writing to a process that has ended is reported by the next read, not by a signal.
  void write(const std::string& text) {
    struct sigaction ignore = {};
    struct sigaction before = {};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &ignore, &before);
    std::fputs(text.c_str(), to_);
    std::fflush(to_);
    sigaction(SIGPIPE, &before, nullptr);
  }

  std::string read_line() {
    std::string line;
    for (int c = std::fgetc(from_); c != EOF && c != '\n'; c = std::fgetc(from_)) {
      line += static_cast<char>(c);
    }
    return line;
  }

  std::string read_all() {
    std::string text;
    for (int c = std::fgetc(from_); c != EOF; c = std::fgetc(from_)) text += static_cast<char>(c);
    return text;
  }

  // Waits for the end; the exit status, or -1 if a signal ended it.
  int finish() {
    std::fclose(to_);
    to_ = nullptr;
    int status = 0;
    waitpid(process_, &status, 0);
    process_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t process_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

std::string with_length(const std::string& text) {
  return fmt::format("{}\n{}", text.size(), text);
}

}  // namespace

void set_python_peer(Contest& contest, const std::string& setup, const std::string& statement) {
  auto process = std::make_shared<PythonProcess>(driver);
  process->write(with_length(setup) + with_length(statement));
  const std::string answer = process->read_line();
  if (answer != "ready") {
    contest.peer_missing = answer.empty() ? interpreter() + " did not start the peer" : answer;
    return;
  }
  contest.peer = [process] {
    process->write("\n");
    const auto seconds = to_real(process->read_line());
    if (!seconds) throw std::runtime_error("the Python peer stopped");
    return *seconds;
  };
}

std::string run_python(const std::string& script) {
  PythonProcess process(script);
  std::string output = process.read_all();
  const int status = process.finish();
  if (status != 0) {
    throw std::runtime_error(fmt::format("{} ended with status {}", interpreter(), status));
  }
  return output;
}

}  // namespace einkorn
