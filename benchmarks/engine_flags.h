#ifndef QUIRE_BENCHMARKS_ENGINE_FLAGS_H_
#define QUIRE_BENCHMARKS_ENGINE_FLAGS_H_

#include <cstdint>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "benchmarks/bench_engine.h"
#include "benchmarks/bench_support.h"
#include "worker/engine_factory.h"

namespace quire {

// The flags that say which engine a benchmark measures, and the engine that they ask for.
class EngineFlags {
 public:
  void Declare(CLI::App& app);

  // The paged engine, with a line to standard error for each stage of its start.
  // `max_model_len` counts where --max-model-len was not given.
  absl::StatusOr<BenchEngine> Build(uint32_t max_model_len, bool enable_prefix_caching) const;
  // Model, dtype, device and limits.
  void Describe(const BenchEngine& engine, BenchReport& report) const;

  // As given; zeros where BuildEngine resolves them.
  const EngineSettings& settings() const { return settings_; }
  EngineSettings& settings() { return settings_; }
  bool is_cuda() const { return settings_.device == "cuda"; }
  uint32_t bytes_per_weight() const { return settings_.dtype == "fp32" ? 4 : 2; }

 private:
  EngineSettings settings_;
  bool dummy_ = false;
};

}  // namespace quire

#endif  // QUIRE_BENCHMARKS_ENGINE_FLAGS_H_
