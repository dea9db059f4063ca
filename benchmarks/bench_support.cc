#include "benchmarks/bench_support.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "clients/cli/sample_stats.h"
#include "scheduler/check.h"
#include "worker/device/cpu/gemm/self_test.h"

namespace quire {

double Median(std::vector<double> values) { return Percentile(std::move(values), 50); }

double Percentile(std::vector<double> values, double percent) {
  QUIRE_CHECK(!values.empty());
  return SampleStats(std::move(values)).percentile(percent);
}

int64_t LastLevelCacheBytes() {
  const long reported = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return reported > 0 ? reported : int64_t{32} << 20;
}

ReadBandwidth::ReadBandwidth() {
  constexpr size_t kBytes = size_t{1} << 30;
  absl::StatusOr<AlignedBuffer> buffer = AlignedBuffer::Create(kBytes);
  QUIRE_CHECK(buffer.ok());
  buffer_ = *std::move(buffer);
  std::memset(buffer_.data(), 1, kBytes);
}

double ReadBandwidth::Measure(ThreadPool& pool) const {
  using Vector = uint64_t __attribute__((vector_size(64)));
  constexpr int64_t kPrefetchVectors = 32;
  const auto* vectors = reinterpret_cast<const Vector*>(buffer_.data());
  const auto num_vectors = static_cast<int64_t>(buffer_.size_bytes() / sizeof(Vector));
  std::vector<uint64_t> sinks(static_cast<size_t>(pool.num_threads()) * 8);
  const Stopwatch watch;
  pool.Run([&](ThreadContext& context) {
    const int64_t begin = num_vectors * context.index() / context.count();
    const int64_t end = num_vectors * (context.index() + 1) / context.count();
    Vector sums[4] = {};
    for (int64_t i = begin; i + 4 <= end; i += 4) {
      for (int j = 0; j < 4; ++j) {
        __builtin_prefetch(vectors + i + j + kPrefetchVectors);
        sums[j] += vectors[i + j];
      }
    }
    sinks[static_cast<size_t>(context.index()) * 8] = (sums[0] + sums[1] + sums[2] + sums[3])[0];
  });
  const double seconds = watch.Seconds();
  QUIRE_CHECK(sinks[0] != 0);
  return static_cast<double>(buffer_.size_bytes()) / seconds / 1e9;
}

namespace {

template <typename T>
double MeasurePeakGflops(ThreadPool& pool, GemmDtype dtype) {
  constexpr int64_t kRows = 256, kOutputs = 1024, kInputs = 1024;
  constexpr int kProducts = 50;
  // Zeros, which multiply as fast as other numbers.
  const absl::StatusOr<PackedWeights> weights = PackedWeights::Create(dtype, kOutputs, kInputs);
  QUIRE_CHECK(weights.ok());
  const std::vector<T> x(kRows * kInputs);
  std::vector<T> y(kRows * kOutputs);
  const Isa isa = UsableIsas().back();
  double best = 0;
  for (int i = 0; i < kProducts; ++i) {
    const Stopwatch watch;
    pool.Run(
        [&](ThreadContext& context) { Gemm(context, isa, kRows, x.data(), *weights, y.data()); });
    best = std::max(best, 2e-9 * kRows * kOutputs * kInputs / watch.Seconds());
  }
  return best;
}

}  // namespace

double PeakGflops(ThreadPool& pool, GemmDtype dtype) {
  return dtype == GemmDtype::kBf16 ? MeasurePeakGflops<Bf16>(pool, dtype)
                                   : MeasurePeakGflops<float>(pool, dtype);
}

BenchReport::BenchReport(const std::string& benchmark) {
  double load[1] = {0};
  getloadavg(load, 1);
  document_["benchmark"] = benchmark;
  document_["load_average"] = load[0];
  document_["settings"] = BenchJson::object();
  document_["figures"] = BenchJson::array();
}

void BenchReport::Add(const std::string& name, const std::string& unit,
                      const std::vector<double>& samples, const Target& target) {
  BenchJson figure;
  figure["name"] = name;
  figure["unit"] = unit;
  figure["median"] = Median(samples);
  figure["min"] = *std::min_element(samples.begin(), samples.end());
  figure["max"] = *std::max_element(samples.begin(), samples.end());
  figure["samples"] = samples.size();
  if (target.at_least) figure["at_least"] = *target.at_least;
  if (target.at_most) figure["at_most"] = *target.at_most;
  document_["figures"].push_back(std::move(figure));
}

}  // namespace quire
