#include "worker/device/cuda/cuda_rank_group.h"

#include <cstdlib>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

absl::Status NcclStatus(ncclResult_t result, const char* what, ncclComm_t communicator) {
  if (result == ncclSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("NCCL, ", what, ": ", ncclGetErrorString(result), " (",
                                          ncclGetLastError(communicator), ")"));
}

}  // namespace

CudaRankGroup::CudaRankGroup(uint32_t size)
    : rendezvous_(size), communicators_(size, nullptr), failures_(size) {}

absl::StatusOr<std::shared_ptr<CudaRankGroup>> CudaRankGroup::Create(uint32_t size) {
  std::shared_ptr<CudaRankGroup> group(new CudaRankGroup(size));
  // Ranks are threads of this process: how they find each other is nobody else's to connect to.
  setenv("NCCL_SOCKET_IFNAME", "lo", /*overwrite=*/0);
  absl::Status status = NcclStatus(ncclGetUniqueId(&group->id_), "a group's id", nullptr);
  if (!status.ok()) return status;
  return group;
}

CudaRankGroup::~CudaRankGroup() {
  if (!rendezvous_.status().ok()) return;
  // As one group: a communicator may wait for its peers to be destroyed as well.
  ncclGroupStart();
  for (ncclComm_t communicator : communicators_) {
    if (communicator != nullptr) ncclCommDestroy(communicator);
  }
  ncclGroupEnd();
}

absl::Status CudaRankGroup::Join(uint32_t rank) {
  // NCCL waits for all without an end: so all must be there.
  if (absl::Status status = rendezvous_.Arrive(); !status.ok()) return status;
  ncclComm_t communicator = nullptr;
  const ncclResult_t result =
      ncclCommInitRank(&communicator, static_cast<int>(size()), id_, static_cast<int>(rank));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    communicators_[rank] = communicator;
  }
  if (absl::Status status = NcclStatus(result, "joining the group", nullptr); !status.ok()) {
    return status;
  }
  // From here on every communicator is there for Abort to end.
  return rendezvous_.Arrive();
}

cudaError_t CudaRankGroup::AllGather(uint32_t rank, const void* part, size_t part_bytes, void* all,
                                     cudaStream_t stream) {
  const ncclComm_t communicator = communicators_[rank];
  const ncclResult_t result = ncclAllGather(part, all, part_bytes, ncclUint8, communicator, stream);
  if (result == ncclSuccess) return cudaSuccess;
  failures_[rank] = NcclStatus(result, "gathering the ranks' parts", communicator);
  return cudaErrorUnknown;
}

absl::Status CudaRankGroup::Check(uint32_t rank) {
  if (!failures_[rank].ok()) return failures_[rank];
  if (absl::Status status = rendezvous_.status(); !status.ok()) return status;
  ncclResult_t found = ncclSuccess;
  const ncclResult_t result = ncclCommGetAsyncError(communicators_[rank], &found);
  return NcclStatus(result != ncclSuccess ? result : found, "between the GPUs",
                    communicators_[rank]);
}

void CudaRankGroup::Abort(const absl::Status& why) {
  std::vector<ncclComm_t> communicators;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!rendezvous_.status().ok()) return;  // aborted already
    rendezvous_.Abort(why);
    communicators = communicators_;
  }
  // Kernels that wait for a rank that is lost return. Nothing is freed that other threads may use.
  // Each call takes a while, on an H100 about half a second: so all at once.
  std::vector<std::thread> threads;
  for (ncclComm_t communicator : communicators) {
    if (communicator == nullptr) continue;
    threads.emplace_back([communicator] {
      // A revoked communicator can still be destroyed; one that cannot be revoked is ended for
      // good.
      if (ncclCommRevoke(communicator, NCCL_REVOKE_DEFAULT) == ncclSuccess) return;
      ncclCommAbort(communicator);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace quire
