#ifndef QUIRE_WORKER_DEVICE_CUDA_CUDA_RANK_GROUP_H_
#define QUIRE_WORKER_DEVICE_CUDA_CUDA_RANK_GROUP_H_

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/device/rank_group/rank_rendezvous.h"

namespace quire {

// What the GPUs of a tensor-parallel group share: NCCL, which carries parts of activations between
// them. It only copies; no sum is ever left to it, so its choice of algorithm changes no bit.
//
// A rank's calls come from one thread at a time; Abort from any.
class CudaRankGroup {
 public:
  // REQUIRES: size > 0.
  static absl::StatusOr<std::shared_ptr<CudaRankGroup>> Create(uint32_t size);
  // After Abort the process is to end: NCCL's memory is left to that.
  ~CudaRankGroup();
  CudaRankGroup(const CudaRankGroup&) = delete;
  CudaRankGroup& operator=(const CudaRankGroup&) = delete;

  uint32_t size() const { return static_cast<uint32_t>(communicators_.size()); }
  RankRendezvous& rendezvous() { return rendezvous_; }

  // Joins the group as `rank` with the current device, and waits for the others to do so. To be
  // called once by each rank.
  absl::Status Join(uint32_t rank);

  // Enqueues: `all`, [size, part_bytes], becomes the ranks' parts in the order of ranks. Every rank
  // calls it in the same order with the same size. Can be captured. An error's text: TakeError.
  cudaError_t AllGather(uint32_t rank, const void* part, size_t part_bytes, void* all,
                        cudaStream_t stream);

  // Why a call of the rank failed, or what NCCL found since on the way between GPUs. OK: nothing.
  absl::Status Check(uint32_t rank);

  // Ends what ranks wait for, on the host and on the devices. REQUIRES: `why` is an error.
  void Abort(const absl::Status& why);

 private:
  explicit CudaRankGroup(uint32_t size);

  RankRendezvous rendezvous_;
  ncclUniqueId id_ = {};
  std::mutex mutex_;                       // over the writes of Join, and Abort
  std::vector<ncclComm_t> communicators_;  // by rank; null before Join
  std::vector<absl::Status> failures_;     // by rank
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CUDA_CUDA_RANK_GROUP_H_
