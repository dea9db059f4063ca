#ifndef QUIRE_TESTS_WORKER_DEVICE_CUDA_CUDA_UNDER_TEST_H_
#define QUIRE_TESTS_WORKER_DEVICE_CUDA_CUDA_UNDER_TEST_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "tests/worker/device/exactness/executor_under_test.h"
#include "worker/device/cuda/cuda_executor.h"

namespace quire {

// Errors: those of CudaExecutor::Create.
absl::StatusOr<std::unique_ptr<ExecutorUnderTest>> MakeCudaUnderTest(
    const CudaExecutorOptions& options, const Weights& weights);

// The same of a tensor-parallel group of `size` ranks. Errors: those of CreateCudaRanks.
absl::StatusOr<std::unique_ptr<ExecutorUnderTest>> MakeCudaRanksUnderTest(
    const CudaExecutorOptions& options, uint32_t size, const Weights& weights);

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_CUDA_CUDA_UNDER_TEST_H_
