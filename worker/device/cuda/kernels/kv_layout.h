#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_KV_LAYOUT_H_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_KV_LAYOUT_H_

#include <cstddef>
#include <cstdint>

// Where a key or a value lies in a layer's part of the KV store. In elements:
//   [block][0: keys, 1: values][kv_head][block_size][head_dim]
// so that what one query head group reads of a block is one contiguous run of keys and one of
// values.
namespace quire::cuda {

struct KvLayout {
  uint32_t num_kv_heads = 0;
  uint32_t block_size = 0;  // tokens
  uint32_t head_dim = 0;

#ifdef __CUDACC__
  __host__ __device__
#endif
      constexpr size_t
      block_stride() const {
    return size_t{2} * num_kv_heads * block_size * head_dim;
  }
  // From a position's key to its value.
#ifdef __CUDACC__
  __host__ __device__
#endif
      constexpr size_t
      value_offset() const {
    return size_t{1} * num_kv_heads * block_size * head_dim;
  }
  // Of the key of position `offset` within the block.
#ifdef __CUDACC__
  __host__ __device__
#endif
      constexpr size_t
      key(uint32_t block, uint32_t kv_head, uint32_t offset) const {
    return block * block_stride() + (size_t{kv_head} * block_size + offset) * head_dim;
  }
};

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_KV_LAYOUT_H_
