#ifndef QUIRE_WORKER_DEVICE_CUDA_CUDA_RANKS_H_
#define QUIRE_WORKER_DEVICE_CUDA_CUDA_RANKS_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/device/cuda/cuda_executor.h"
#include "worker/device/rank_group/rank_group_executor.h"
#include "worker/model/weights.h"

namespace quire {

// A tensor-parallel group of one rank on each of the GPUs from options.device on, which share
// options.kv_cache_bytes. Its tokens and logits have the bits of one CudaExecutor's. `progress`
// hears rank 0's stages. Errors: CudaExecutor::Create's; FAILED_PRECONDITION: fewer GPUs than
// ranks, or GPUs of different kinds. REQUIRES: options.group is null.
absl::StatusOr<std::unique_ptr<RankGroupExecutor>> CreateCudaRanks(
    const CudaExecutorOptions& options, uint32_t size, const Weights& weights,
    const CudaExecutor::Progress& progress);

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CUDA_CUDA_RANKS_H_
