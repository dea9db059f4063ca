// Measures the CPU matrix products on the shapes of Qwen2.5-0.5B and quire-tiny, beside the read
// bandwidth of the same run, and prints one JSON document.
//
//   gemm_bench [--threads 2] [--isa avx512_bf16] [--m 1,8,32,128] [--shapes qwen_down,tiny_down]
//              [--dtypes bf16,fp32] [--repeats 5]
//
// Weights are walked out of cache: every product of a pass reads another copy, and the copies are
// four times the last-level cache together. All products of a pass run in one region with a
// barrier after each, as in a transformer's step. Figures are medians over the repeats.

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "benchmarks/bench_support.h"
#include "scheduler/check.h"
#include "worker/device/cpu/gemm/gemm.h"
#include "worker/device/cpu/gemm/self_test.h"

namespace quire {
namespace {

struct Shape {
  const char* name;
  int64_t n;
  int64_t k;
};

constexpr Shape kShapes[] = {
    {"qwen_qkv", 1152, 896},     {"qwen_o", 896, 896},          {"qwen_gate_up", 9728, 896},
    {"qwen_down", 896, 4864},    {"qwen_lm_head", 151936, 896}, {"tiny_qkv", 640, 384},
    {"tiny_o", 384, 384},        {"tiny_gate_up", 2048, 384},   {"tiny_down", 384, 1024},
    {"tiny_lm_head", 8192, 384},
};

// Seconds of each of `repeats` runs of fn, after one that warms up.
template <typename Fn>
std::vector<double> Time(int repeats, Fn fn) {
  fn();
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    const Stopwatch watch;
    fn();
    seconds.push_back(watch.Seconds());
  }
  return seconds;
}

template <typename T>
T SmallValue(uint64_t index) {
  const float value = static_cast<float>(index * 2654435761u % 2048) / 1024.0f - 1.0f;
  if constexpr (sizeof(T) == sizeof(Bf16)) {
    return ToBf16(value);
  } else {
    return value;
  }
}

template <typename T>
std::vector<T> SmallValues(int64_t count) {
  std::vector<T> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = SmallValue<T>(i);
  return values;
}

// One row of the result for every m.
template <typename T>
void MeasureShape(ThreadPool& pool, Isa isa, GemmDtype dtype, const Shape& shape,
                  const std::vector<int64_t>& batch_sizes, int repeats, BenchJson* rows) {
  const int64_t weight_bytes = shape.n * shape.k * static_cast<int64_t>(sizeof(T));
  const int64_t num_copies = std::max<int64_t>(1, 4 * LastLevelCacheBytes() / weight_bytes);
  std::vector<PackedWeights> copies;
  const std::vector<T> source = SmallValues<T>(shape.n * shape.k);
  for (int64_t i = 0; i < num_copies; ++i) {
    absl::StatusOr<PackedWeights> weights = PackedWeights::Create(dtype, shape.n, shape.k);
    QUIRE_CHECK(weights.ok());
    weights->PackRows(0, shape.n, source.data());
    copies.push_back(*std::move(weights));
  }
  for (int64_t m : batch_sizes) {
    const std::vector<T> x = SmallValues<T>(m * shape.k);
    std::vector<T> y(m * shape.n);
    const std::vector<double> seconds = Time(repeats, [&] {
      pool.Run([&](ThreadContext& context) {
        for (const PackedWeights& weights : copies) {
          Gemm(context, isa, m, x.data(), weights, y.data());
          context.Barrier();
        }
      });
    });
    const double median = Median(seconds) / num_copies;
    BenchJson row;
    row["shape"] = shape.name;
    row["n"] = shape.n;
    row["k"] = shape.k;
    row["m"] = m;
    row["dtype"] = dtype == GemmDtype::kBf16 ? "bf16" : "fp32";
    row["median_us"] = median * 1e6;
    row["min_us"] = *std::min_element(seconds.begin(), seconds.end()) / num_copies * 1e6;
    row["max_us"] = *std::max_element(seconds.begin(), seconds.end()) / num_copies * 1e6;
    row["weights_gb_per_s"] = weight_bytes / median / 1e9;
    row["gflop_per_s"] = 2.0 * m * shape.n * shape.k / median / 1e9;
    rows->push_back(row);
  }
}

int Main(int argc, char** argv) {
  CLI::App app("Measures the CPU matrix products.");
  int num_threads = 2;
  int repeats = 5;
  std::string isa_name;
  std::vector<int64_t> batch_sizes = {1, 2, 4, 8, 16, 32, 64, 128, 512};
  std::vector<std::string> shapes;
  std::vector<std::string> dtypes = {"bf16", "fp32"};
  app.add_option("--threads", num_threads, "Threads that compute")->check(CLI::Range(1, 256));
  app.add_option("--repeats", repeats, "Passes a figure is the median of")
      ->check(CLI::Range(1, 100));
  app.add_option("--isa", isa_name, "Instruction-set path; the fastest usable one if not given");
  app.add_option("--m", batch_sizes, "Rows of x")->delimiter(',')->check(CLI::Range(1, 100000));
  app.add_option("--shapes", shapes, "Names of the shapes to measure; all if not given")
      ->delimiter(',');
  app.add_option("--dtypes", dtypes, "bf16, fp32")
      ->delimiter(',')
      ->check(CLI::IsMember({"bf16", "fp32"}));
  CLI11_PARSE(app, argc, argv);

  Isa isa = UsableIsas().back();
  if (!isa_name.empty()) {
    const absl::StatusOr<Isa> parsed = ParseIsa(isa_name);
    const std::vector<Isa> supported = SupportedIsas();
    if (!parsed.ok() || std::count(supported.begin(), supported.end(), *parsed) == 0) {
      std::cerr << "--isa " << isa_name << ": unknown, or not supported by this processor\n";
      return 1;
    }
    isa = *parsed;
  }

  ThreadPool pool(num_threads);
  BenchJson result;
  result["threads"] = num_threads;
  result["isa"] = IsaName(isa);
  result["repeats"] = repeats;
  const ReadBandwidth bandwidth;
  std::vector<double> passes;
  for (int i = 0; i < repeats; ++i) passes.push_back(bandwidth.Measure(pool));
  result["read_gb_per_s"] = Median(passes);
  result["rows"] = BenchJson::array();
  for (const Shape& shape : kShapes) {
    if (!shapes.empty() && std::count(shapes.begin(), shapes.end(), shape.name) == 0) continue;
    for (const std::string& dtype : dtypes) {
      if (dtype == "bf16") {
        MeasureShape<Bf16>(pool, isa, GemmDtype::kBf16, shape, batch_sizes, repeats,
                           &result["rows"]);
      } else {
        MeasureShape<float>(pool, isa, GemmDtype::kFp32, shape, batch_sizes, repeats,
                            &result["rows"]);
      }
    }
  }
  std::cout << result.dump(1) << "\n";
  return 0;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }
