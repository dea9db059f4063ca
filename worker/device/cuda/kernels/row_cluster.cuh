#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_ROW_CLUSTER_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_ROW_CLUSTER_CUH_

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cstdint>

// A row of logits is worked on by a cluster of thread blocks, a slice of it by each. What they tell
// each other goes through their shared memories.
namespace quire::cuda {

inline constexpr uint32_t kClusterBlocks = 8;
inline constexpr uint32_t kClusterThreads = 384;  // of a block
inline constexpr uint32_t kWarps = kClusterThreads / 32;

// For Reduce. All are exact, so that no order of the operands matters.
struct AddOf {
  static constexpr uint64_t kNeutral = 0;
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a + b; }
};
struct MaxOf {
  static constexpr uint64_t kNeutral = 0;
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
};
struct MinOf {
  static constexpr uint64_t kNeutral = ~uint64_t{0};
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a < b ? a : b; }
};

// `op` over each group of kLanes lanes, for all of them.
template <uint32_t kLanes = 32, typename Op>
__device__ uint64_t WarpReduce(uint64_t value, Op op) {
#pragma unroll
  for (uint32_t offset = kLanes / 2; offset > 0; offset /= 2) {
    value = op(value, __shfl_xor_sync(0xFFFFFFFFu, value, offset));
  }
  return value;
}

// What a block keeps in shared memory for RowCluster.
struct ClusterExchange {
  uint64_t warps[kWarps];
  uint64_t block[2];  // used in turn
};

// A thread's view of its cluster. Every thread of the cluster makes the same calls in the same
// order. The last one is Sync: until then others may read a block's memory.
class RowCluster {
 public:
  explicit __device__ RowCluster(ClusterExchange* exchange) : exchange_(exchange) {}

  __device__ uint32_t rank() const { return cluster_.block_rank(); }

  // A barrier of all threads. What was written before it is seen after it.
  __device__ void Sync() const { cluster_.sync(); }

  // Where block `rank` has what lies at `shared` in this one.
  template <typename T>
  __device__ const T* Of(uint32_t rank, T* shared) const {
    return cluster_.map_shared_rank(shared, static_cast<int>(rank));
  }

  // `op` over the values of all threads, for all of them. A Sync as well.
  template <typename Op>
  __device__ uint64_t Reduce(uint64_t value, Op op) {
    const uint32_t lane = threadIdx.x % 32;
    value = WarpReduce(value, op);
    if (lane == 0) exchange_->warps[threadIdx.x / 32] = value;
    __syncthreads();
    // It is written again two Reduces later: by then all have read it.
    uint64_t* const block = &exchange_->block[turn_];
    turn_ ^= 1;
    if (threadIdx.x < 32) {
      value = WarpReduce(lane < kWarps ? exchange_->warps[lane] : Op::kNeutral, op);
      if (lane == 0) *block = value;
    }
    Sync();
    return WarpReduce<kClusterBlocks>(*Of(lane % kClusterBlocks, block), op);
  }

 private:
  cooperative_groups::cluster_group cluster_ = cooperative_groups::this_cluster();
  ClusterExchange* exchange_;
  uint32_t turn_ = 0;
};

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_ROW_CLUSTER_CUH_
