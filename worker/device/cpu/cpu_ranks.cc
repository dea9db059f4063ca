#include "worker/device/cpu/cpu_ranks.h"

#include <algorithm>
#include <utility>

#include "worker/model/model_shard.h"

namespace quire {

absl::StatusOr<std::unique_ptr<RankGroupExecutor>> CreateCpuRanks(
    const CpuExecutorOptions& options, uint32_t size, std::shared_ptr<const Weights> weights) {
  if (absl::Status status = CheckShards(weights->config(), size); !status.ok()) return status;
  // Kept alive by the group's way to abort it, which outlives the ranks.
  auto group = std::make_shared<CpuRankGroup>(size);
  CpuExecutorOptions of_rank = options;
  of_rank.group = group.get();
  of_rank.num_threads = std::max(1, options.num_threads / static_cast<int>(size));
  return RankGroupExecutor::Create(
      size,
      [&](uint32_t rank) -> absl::StatusOr<std::unique_ptr<ModelExecutor>> {
        CpuExecutorOptions own = of_rank;
        own.shard = {rank, size};
        auto executor = CpuExecutor::Create(own, weights);
        if (!executor.ok()) return executor.status();
        return *std::move(executor);
      },
      [group](const absl::Status& why) { group->rendezvous().Abort(why); });
}

}  // namespace quire
