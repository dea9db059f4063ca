#ifndef QUIRE_WORKER_DEVICE_CPU_KV_STORE_H_
#define QUIRE_WORKER_DEVICE_CPU_KV_STORE_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "scheduler/batch/step_plan.h"
#include "worker/device/cpu/gemm/aligned_buffer.h"
#include "worker/model/dtype.h"

namespace quire {

struct KvGeometry {
  uint32_t num_layers = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t block_size = 0;    // tokens: 8 or a multiple of 16
  DType dtype = DType::kF32;  // kF32 or kBF16

  // Keys and values of one position in all layers.
  uint64_t bytes_per_token() const;
  uint64_t bytes_per_block() const { return bytes_per_token() * block_size; }
};

// The memory behind the block ids: keys and values of every position that a sequence has computed.
//
// Layout, in elements of the dtype: [layer][block], and within a block
//   keys   [kv_head][head_dim][block_size]         fp32
//          [kv_head][head_dim / 2][block_size][2]  bf16
//   values [kv_head][block_size][head_dim]
// Keys lie with positions side by side, so that a vector holds the same element of 16 keys and a
// score is one chain of multiply-adds in its lane; values lie as rows, so that a weighted sum of
// them runs along head_dim. Neither needs a sum across lanes.
//
// Which block belongs to whom is the scheduler's business. Threads may write different positions of
// a block at once.
class KvStore {
 public:
  // RESOURCE_EXHAUSTED when the memory can't be had. INVALID_ARGUMENT: a block size that the
  // attention kernel does not take. REQUIRES: num_blocks > 0.
  static absl::StatusOr<KvStore> Create(const KvGeometry& geometry, uint32_t num_blocks);

  const KvGeometry& geometry() const { return geometry_; }
  uint32_t num_blocks() const { return num_blocks_; }

  // Elements from a block to the next in the same layer.
  size_t block_stride() const { return block_stride_; }
  // Where the keys or values of a layer and head lie in block 0. REQUIRES: T is the dtype's type.
  template <typename T>
  T* keys(uint32_t layer, uint32_t kv_head) const {
    return reinterpret_cast<T*>(buffer_.data()) + layer * block_stride_ * num_blocks_ +
           kv_head * head_stride_;
  }
  template <typename T>
  T* values(uint32_t layer, uint32_t kv_head) const {
    return keys<T>(layer, kv_head) + geometry_.num_kv_heads * head_stride_;
  }

  // For tests: every element of the block becomes a NaN, in all layers.
  void FillWithNan(BlockId block);

 private:
  KvStore(const KvGeometry& geometry, uint32_t num_blocks, AlignedBuffer buffer);

  KvGeometry geometry_;
  uint32_t num_blocks_;
  size_t head_stride_;  // elements of a head's keys, or values, in a block
  size_t block_stride_;
  AlignedBuffer buffer_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_KV_STORE_H_
