#include <cstdlib>
#include <iostream>

#include "tests/parity/engines.h"
#include "tests/parity/paged_answers.h"
#include "tests/worker/device/cpu/cpu_under_test.h"
#include "tests/worker/device/cuda/cuda_under_test.h"
#include "worker/device/cuda/device_info.h"

namespace quire {

std::string WhyNoEngines() {
  const absl::StatusOr<cuda::DeviceInfo> device = cuda::FindDevice(0);
  return device.ok() ? "" : std::string(device.status().message());
}

const std::vector<std::string>& EngineNames() {
  static const auto& names = *new std::vector<std::string>{"paged", "cuda"};
  return names;
}

const std::vector<std::string>& CheckpointNames() {
  static const auto& names =
      *new std::vector<std::string>{"llama", "mistral", "qwen2", "qwen3", "quire-tiny"};
  return names;
}

std::vector<Answer> Ask(const std::string& engine, const std::shared_ptr<const Weights>& weights,
                        const std::vector<Golden>& goldens) {
  if (engine == "paged") {
    return AskPaged(*MakeCpuUnderTest(PagedOptions<CpuExecutorOptions>(goldens), weights), goldens);
  }
  const auto executor = MakeCudaUnderTest(PagedOptions<CudaExecutorOptions>(goldens), *weights);
  if (!executor.ok()) {
    std::cerr << executor.status() << std::endl;
    std::abort();
  }
  return AskPaged(**executor, goldens);
}

}  // namespace quire
