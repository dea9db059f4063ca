#ifndef QUIRE_WORKER_DEVICE_CPU_CPU_RANK_GROUP_H_
#define QUIRE_WORKER_DEVICE_CPU_CPU_RANK_GROUP_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "worker/device/cpu/gemm/thread_pool.h"
#include "worker/device/rank_group/rank_rendezvous.h"

namespace quire {

// What the CPU ranks of a tensor-parallel group share: they read each other's activations where
// they lie. Every rank has a thread pool of its own.
class CpuRankGroup {
 public:
  explicit CpuRankGroup(uint32_t size) : rendezvous_(size), parts_(size) {}

  RankRendezvous& rendezvous() { return rendezvous_; }

  // Rows of activations, [num_rows, size * part_bytes], of which the rank has computed its part.
  struct Rows {
    std::byte* data = nullptr;
    int64_t num_rows = 0;
    size_t part_bytes = 0;
  };

  // Completes the rank's rows by the other ranks' parts. To be called by all threads of the rank's
  // region, and by every rank with its own rows of the same shape; the threads' writes before are
  // waited for, and the rows are complete for all of them after it. False: the group was aborted,
  // the rows mean nothing, and all threads of the region hear so.
  bool Gather(ThreadContext& context, uint32_t rank, const Rows& rows);

 private:
  struct alignas(64) Part {
    std::byte* data = nullptr;
    bool is_complete = false;  // this gathering, for the rank's own threads
  };

  RankRendezvous rendezvous_;
  std::vector<Part> parts_;  // by rank; written by its thread 0 alone
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_CPU_RANK_GROUP_H_
