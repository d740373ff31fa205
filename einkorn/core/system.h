// A system describes itself once; the command, the report, Python and the docs are made from it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "einkorn/core/device.h"
#include "einkorn/core/options.h"
#include "einkorn/core/progress.h"
#include "einkorn/core/report.h"

namespace einkorn {

enum class Wing { compute, convolution, similarity, scaling, search, profile, models, assess };

std::string to_string(Wing wing);

struct Paper {
  std::string title;
  std::string authors;  // "Yu, Zhou, Yan, Wang"
  int year = 0;
  std::string arxiv;  // "2303.16900"; empty where there is none
};

// Something a user can do with a system. run gets checked options and returns what it found.
struct Job {
  std::string name;
  std::string summary;
  std::vector<Option> options;
  std::function<Report(const Options&, const Progress&)> run;
  std::vector<std::string> examples = {};  // command lines after "einkorn "
};

struct ReproductionRun {
  Device device = Device::cpu;
  bool full = false;  // the whole demonstration instead of the 20-second one
  Progress progress = {};
};

// The paper's claim as an experiment.
struct Reproduction {
  std::string claim;  // one sentence, with its number
  std::string data;   // what it runs on
  std::function<Evidence(const ReproductionRun&)> run;
};

// The least work that the task needs: what a perfect implementation would still do.
struct Work {
  double flops = 0;
  double bytes = 0;
};

enum class Arithmetic { f64, f32, bf16 };  // which peak rate bounds the FLOPs

// One side of a contest. Returns the seconds of one call; timed() below makes one from a function.
using TimedCall = std::function<double()>;

// Times a call by the wall clock, with the device's queue empty before and after.
TimedCall timed(std::function<void()> call, Device device = Device::cpu);

// A prepared benchmark: inputs exist, both sides are warm or can be.
struct Contest {
  TimedCall ours;
  TimedCall peer;  // empty: the peer is not to be had here, and peer_missing says why
  Work work;
  Arithmetic arithmetic = Arithmetic::f32;
  std::string peer_missing = "";
};

// Ours against a peer, in turn, in one run.
struct Benchmark {
  std::string name;  // the case: "log I, 1e6 points, f64"
  std::string peer;  // "scipy.special.ive + log"
  std::vector<Device> devices;
  std::function<Contest(Device)> prepare;
};

// How a kernel would run here: for `einkorn info`.
struct KernelChoice {
  std::string kernel;
  std::string implementation;
  std::string reason;  // why nothing better: "AVX-512 not on this processor"
};

struct System {
  std::string name;  // "graph-proximity"
  Wing wing = Wing::compute;
  Paper paper;
  std::string summary;
  std::vector<Device> devices = {Device::cpu};
  std::vector<Job> jobs;
  Reproduction reproduction;
  std::vector<Benchmark> benchmarks;
  std::function<std::vector<KernelChoice>()> kernels = {};
};

}  // namespace einkorn
