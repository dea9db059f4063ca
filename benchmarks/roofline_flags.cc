#include "benchmarks/roofline_flags.h"

#include <algorithm>
#include <iostream>
#include <string>
#include <thread>

#include "worker/model/model_config.h"

namespace quire {
namespace {

constexpr DeviceSpeed kH200 = {4.12e12, 758e12};
constexpr int kBandwidthPasses = 10;

DeviceSpeed MeasureCpu(const EngineFlags& flags) {
  const uint32_t threads = flags.settings().num_threads;
  ThreadPool pool(
      static_cast<int>(threads != 0 ? threads : std::max(1u, std::thread::hardware_concurrency())));
  const ReadBandwidth bandwidth;
  double best = 0;  // a bound is not what others at work leave of the machine
  for (int i = 0; i < kBandwidthPasses; ++i) best = std::max(best, bandwidth.Measure(pool));
  const GemmDtype dtype = flags.bytes_per_weight() == 2 ? GemmDtype::kBf16 : GemmDtype::kFp32;
  return {best * 1e9, PeakGflops(pool, dtype) * 1e9};
}

}  // namespace

void RooflineFlags::Declare(CLI::App& app) {
  CLI::Option* read =
      app.add_option("--read-gb-per-s", read_gb_per_s_,
                     "For the roofline: what the device reads; default: measured, or an H200's")
          ->check(CLI::PositiveNumber);
  CLI::Option* peak = app.add_option("--peak-tflops", peak_tflops_,
                                     "For the roofline: matrix products in the dtype")
                          ->check(CLI::PositiveNumber)
                          ->needs(read);
  read->needs(peak);
}

std::optional<DeviceSpeed> RooflineFlags::Find(const EngineFlags& flags) const {
  if (read_gb_per_s_ > 0) return DeviceSpeed{read_gb_per_s_ * 1e9, peak_tflops_ * 1e12};
  if (flags.is_cuda()) return std::nullopt;
  return MeasureCpu(flags);
}

absl::StatusOr<bool> RooflineFlags::Attach(std::optional<DeviceSpeed> speed,
                                           const EngineFlags& flags, BenchEngine& engine,
                                           BenchReport& report) {
  const bool is_h200 = engine.description().find("NVIDIA H200") != std::string::npos;
  if (!speed.has_value() && is_h200 && flags.bytes_per_weight() == 2) {
    const double ranks = flags.settings().tensor_parallel_size;
    speed = DeviceSpeed{kH200.read_bytes_per_s * ranks, kH200.flops_per_s * ranks};
  }
  if (!speed.has_value()) {
    std::cerr << "no roofline: give --read-gb-per-s and --peak-tflops\n";
    return false;
  }
  const auto model = LoadModelDescription(flags.settings().model_folder);
  if (!model.ok()) return model.status();
  const Roofline roofline(model->config, flags.bytes_per_weight(), *speed);
  engine.set_roofline(roofline);
  report.Set("roofline_read_gb_per_s", speed->read_bytes_per_s / 1e9);
  report.Set("roofline_peak_tflops", speed->flops_per_s / 1e12);
  report.Set("roofline_weight_bytes", roofline.weight_bytes());
  return true;
}

}  // namespace quire
