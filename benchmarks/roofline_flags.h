#ifndef QUIRE_BENCHMARKS_ROOFLINE_FLAGS_H_
#define QUIRE_BENCHMARKS_ROOFLINE_FLAGS_H_

#include <optional>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "benchmarks/bench_engine.h"
#include "benchmarks/bench_support.h"
#include "benchmarks/engine_flags.h"
#include "benchmarks/roofline.h"

namespace quire {

// The flags that say how fast the device is at best, and the roofline that follows.
//
// On the CPU the speed is measured where it is not given. On a GPU it is given, or it is that of an
// H200 in bf16 (4.12 TB/s of reads and 758 TFLOP/s of products, measured) on one of these.
class RooflineFlags {
 public:
  void Declare(CLI::App& app);

  // As given, or measured on the CPU with the engine's number of threads. To be called before the
  // engine is built, whose threads would be in the way.
  std::optional<DeviceSpeed> Find(const EngineFlags& flags) const;

  // Gives the engine its roofline and describes it. False: the speed is not known, which a line to
  // standard error says. Errors are LoadModelDescription's.
  static absl::StatusOr<bool> Attach(std::optional<DeviceSpeed> speed, const EngineFlags& flags,
                                     BenchEngine& engine, BenchReport& report);

 private:
  double read_gb_per_s_ = 0;
  double peak_tflops_ = 0;
};

}  // namespace quire

#endif  // QUIRE_BENCHMARKS_ROOFLINE_FLAGS_H_
