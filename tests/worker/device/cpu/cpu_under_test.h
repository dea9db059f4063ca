#ifndef QUIRE_TESTS_WORKER_DEVICE_CPU_CPU_UNDER_TEST_H_
#define QUIRE_TESTS_WORKER_DEVICE_CPU_CPU_UNDER_TEST_H_

#include <cstdint>
#include <memory>

#include "tests/worker/device/exactness/executor_under_test.h"
#include "worker/device/cpu/cpu_executor.h"

namespace quire {

// Ends the process where CpuExecutor::Create fails.
std::unique_ptr<ExecutorUnderTest> MakeCpuUnderTest(const CpuExecutorOptions& options,
                                                    std::shared_ptr<const Weights> weights);

// The same of a tensor-parallel group of `size` ranks.
std::unique_ptr<ExecutorUnderTest> MakeCpuRanksUnderTest(const CpuExecutorOptions& options,
                                                         uint32_t size,
                                                         std::shared_ptr<const Weights> weights);

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_CPU_CPU_UNDER_TEST_H_
