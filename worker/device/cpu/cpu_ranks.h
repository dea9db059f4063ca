#ifndef QUIRE_WORKER_DEVICE_CPU_CPU_RANKS_H_
#define QUIRE_WORKER_DEVICE_CPU_CPU_RANKS_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/device/cpu/cpu_executor.h"
#include "worker/device/rank_group/rank_group_executor.h"
#include "worker/model/weights.h"

namespace quire {

// A tensor-parallel group of `size` CPU ranks, which share options.num_threads (each has one at
// least) and options.kv_cache_bytes. Its tokens and logits have the bits of one CpuExecutor's.
// Errors: CpuExecutor::Create's. REQUIRES: options.group is null.
absl::StatusOr<std::unique_ptr<RankGroupExecutor>> CreateCpuRanks(
    const CpuExecutorOptions& options, uint32_t size, std::shared_ptr<const Weights> weights);

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_CPU_RANKS_H_
