#ifndef QUIRE_BENCHMARKS_BENCH_SUPPORT_H_
#define QUIRE_BENCHMARKS_BENCH_SUPPORT_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "worker/device/cpu/gemm/aligned_buffer.h"
#include "worker/device/cpu/gemm/gemm.h"
#include "worker/device/cpu/gemm/thread_pool.h"

// What the C++ benchmarks share: clocks, medians, the memory's read speed, and the JSON document
// that bench_report.py prints.
namespace quire {

using BenchJson = nlohmann::ordered_json;

// Seconds since the construction.
class Stopwatch {
 public:
  double Seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// REQUIRES: values is not empty.
double Median(std::vector<double> values);
// As SampleStats::percentile. REQUIRES: values is not empty.
double Percentile(std::vector<double> values, double percent);

// Bytes of the last-level cache, or 32 MiB where the system does not say.
int64_t LastLevelCacheBytes();

// The speed at which all threads of a pool together read memory front to back, each its own part of
// a buffer far larger than the caches.
class ReadBandwidth {
 public:
  ReadBandwidth();
  // GB/s of one pass, about a twentieth of a second.
  double Measure(ThreadPool& pool) const;

 private:
  AlignedBuffer buffer_;
};

// GFLOP/s of a pool's threads in the best of fifty products whose weights stay in the caches: what
// these kernels reach at best, not what the processor could.
double PeakGflops(ThreadPool& pool, GemmDtype dtype);

// What a figure should be.
struct Target {
  std::optional<double> at_least;
  std::optional<double> at_most;
};
inline Target AtLeast(double value) { return {value, std::nullopt}; }
inline Target AtMost(double value) { return {std::nullopt, value}; }

// The document that a benchmark prints: settings, the load that it started under, and figures.
class BenchReport {
 public:
  explicit BenchReport(const std::string& benchmark);

  template <typename T>
  void Set(const std::string& setting, const T& value) {
    document_["settings"][setting] = value;
  }
  // A figure's value is the median of its samples. REQUIRES: samples is not empty.
  void Add(const std::string& name, const std::string& unit, const std::vector<double>& samples,
           const Target& target = {});

  const BenchJson& document() const { return document_; }

 private:
  BenchJson document_;
};

}  // namespace quire

#endif  // QUIRE_BENCHMARKS_BENCH_SUPPORT_H_
