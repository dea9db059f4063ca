#include "worker/device/cuda/cuda_ranks.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/device/cuda/cuda_rank_group.h"
#include "worker/device/cuda/device_info.h"
#include "worker/model/model_shard.h"

namespace quire {
namespace {

absl::Status CheckDevices(int first, uint32_t size) {
  std::string name;
  for (uint32_t rank = 0; rank < size; ++rank) {
    const auto device = cuda::FindDevice(first + static_cast<int>(rank));
    if (!device.ok()) {
      return absl::Status(device.status().code(), absl::StrCat("tensor_parallel_size ", size, ": ",
                                                               device.status().message()));
    }
    // The same instruction may round differently on another kind.
    if (rank > 0 && device->name != name) {
      return absl::FailedPreconditionError(
          absl::StrCat("tensor_parallel_size ", size, ": GPUs of one kind are needed: GPU ", first,
                       " is ", name, ", GPU ", device->index, " is ", device->name));
    }
    name = device->name;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RankGroupExecutor>> CreateCudaRanks(
    const CudaExecutorOptions& options, uint32_t size, const Weights& weights,
    const CudaExecutor::Progress& progress) {
  if (absl::Status status = CheckShards(weights.config(), size); !status.ok()) return status;
  if (absl::Status status = CheckDevices(options.device, size); !status.ok()) return status;
  absl::StatusOr<std::shared_ptr<CudaRankGroup>> created = CudaRankGroup::Create(size);
  if (!created.ok()) return created.status();
  // Kept alive by the group's way to abort it, which outlives the ranks.
  const std::shared_ptr<CudaRankGroup> group = *std::move(created);
  return RankGroupExecutor::Create(
      size,
      [&](uint32_t rank) -> absl::StatusOr<std::unique_ptr<ModelExecutor>> {
        CudaExecutorOptions own = options;
        own.device = options.device + static_cast<int>(rank);
        own.shard = {rank, size};
        own.group = group.get();
        auto executor =
            CudaExecutor::Create(own, weights, rank == 0 ? progress : CudaExecutor::Progress());
        if (!executor.ok()) return executor.status();
        return *std::move(executor);
      },
      [group](const absl::Status& why) { group->Abort(why); });
}

}  // namespace quire
