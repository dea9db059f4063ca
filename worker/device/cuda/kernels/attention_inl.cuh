#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_INL_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_INL_CUH_

#include <cmath>
#include <cstdint>

#include "worker/device/cuda/kernels/attention_kernels.h"
#include "worker/device/cuda/kernels/launch.h"
#include "worker/device/cuda/kernels/ptx.cuh"

// What the attention kernels of all dtypes share: which keys a row sees, the merge of segments, the
// work of a decoding block, and launches. To be included by .cu files alone.
//
// A row's state after some keys: the maximum of their scores, in powers of two (scale · log2 e ·
// s); the sum of 2^(score − maximum); and for each column the sum of 2^(score − maximum) · value.
// No keys: −inf, 0, 0.
namespace quire::cuda {

// The first position that position `position` sees; the last is itself.
inline __device__ int32_t FirstKey(const AttentionParams& params, int32_t position) {
  const int32_t window = static_cast<int32_t>(params.args.sliding_window);
  return window > 0 && position >= window ? position - window + 1 : 0;
}

// What a score is lowered by: the maximum, or zero where there is none yet.
inline __device__ float ExponentBase(float maximum) {
  return maximum == -INFINITY ? 0.0f : maximum;
}

// Adds a segment's state to that of the segments before it. A segment without keys changes no bit.
class SegmentMerge {
 public:
  // Merges the maximum and the sum of powers.
  __device__ SegmentMerge(float segment_maximum, float segment_sum, float& maximum, float& sum)
      : empty_(segment_sum == 0.0f) {
    const float before = maximum;
    const float after = fmaxf(before, segment_maximum);
    const float base = ExponentBase(after);
    keep_ = Exp2(before - base);
    add_ = Exp2(segment_maximum - base);
    maximum = after;
    sum = Merged(segment_sum, sum);
  }

  // A column's merged sum.
  __device__ float Merged(float segment_value, float value) const {
    return empty_ ? value : __fmaf_rn(value, keep_, __fmul_rn(segment_value, add_));
  }

 private:
  bool empty_;
  float keep_;
  float add_;
};

// What a decoding thread block does at a time: an item for query heads of one KV head, up to
// kMaxHeads of them.
struct DecodeWork {
  DecodeItem item;
  uint32_t kv_head;
  uint32_t first_head;  // within the group
  int32_t position;
  int32_t first_key;
  const int32_t* table;
  // Tiles in which the row sees a key; none if tile >= end_tile.
  uint32_t tile;
  uint32_t end_tile;
};

// Pieces that a KV head's group is cut into.
template <uint32_t kMaxHeads>
inline __device__ uint32_t GroupPieces(const AttentionParams& params) {
  return (params.group + kMaxHeads - 1) / kMaxHeads;
}

// kItemTiles: what an item counts its keys in.
template <uint32_t kMaxHeads, uint32_t kItemTiles = kTilesPerSegment>
inline __device__ DecodeWork LoadDecodeWork(const AttentionParams& params, const DecodeItem* items,
                                            uint32_t index) {
  const uint32_t pieces = GroupPieces<kMaxHeads>(params);
  const uint32_t per_item = pieces * params.args.num_kv_heads;
  const uint32_t rest = index % per_item;
  DecodeWork work;
  work.item = items[index / per_item];
  work.kv_head = rest / pieces;
  work.first_head = rest % pieces * kMaxHeads;
  const int32_t slot = params.args.row_slots[work.item.row];
  work.position = params.args.row_positions[work.item.row];
  work.first_key = FirstKey(params, work.position);
  work.table = params.args.block_tables + static_cast<size_t>(slot) * params.args.table_stride;
  const int32_t first = work.item.first_segment * static_cast<int32_t>(kItemTiles);
  const int32_t end = first + work.item.num_segments * static_cast<int32_t>(kItemTiles);
  const int32_t tile_size = static_cast<int32_t>(kAttentionTile);
  work.tile = max(first, work.first_key / tile_size);
  work.end_tile = min(end, work.position / tile_size + 1);
  return work;
}

// Where a row's partial result lies. [num_heads, head_dim] sums, then [num_heads] pairs of maximum
// and sum of powers.
inline __device__ float* PartialOf(const AttentionParams& params, const DecodeItem& item,
                                   int32_t part) {
  return params.args.partials + static_cast<size_t>(item.first_part + part) * params.part_floats;
}
inline __device__ uint32_t PartialExponents(const AttentionParams& params, uint32_t head) {
  return params.args.num_heads * params.args.head_dim + 2 * head;
}

// Tells the other thread blocks of a row and KV head that this one's partial result is written.
// True for the last of `expected` calls, which then may read all of them. All threads call it;
// `last` is in shared memory.
inline __device__ bool ArriveLast(uint32_t* arrivals, uint32_t expected, uint32_t* last) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    *last = atomicAdd(arrivals, 1u) + 1 == expected ? 1 : 0;
    if (*last) *arrivals = 0;
  }
  __syncthreads();
  if (*last == 0) return false;
  __threadfence();
  return true;
}

// Four consecutive columns of an output row.
inline __device__ void StoreOutput(uint16_t* to, const float4& v) {
  *reinterpret_cast<uint2*>(to) = make_uint2(PackBf16(v.x, v.y), PackBf16(v.z, v.w));
}
inline __device__ void StoreOutput(float* to, const float4& v) {
  *reinterpret_cast<float4*>(to) = v;
}

// Merges the parts of a row in order and writes the outputs of one KV head's group.
template <typename T>
inline __device__ void MergeParts(const AttentionParams& params, const DecodeItem& item,
                                  uint32_t kv_head) {
  const uint32_t quads = params.args.head_dim / 4;
  for (uint32_t i = threadIdx.x; i < params.group * quads; i += blockDim.x) {
    const uint32_t head = kv_head * params.group + i / quads;
    const uint32_t element = head * params.args.head_dim + i % quads * 4;
    float maximum = -INFINITY;
    float sum = 0;
    float4 value = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int32_t part = 0; part < item.num_parts; ++part) {
      const float* partial = PartialOf(params, item, part);
      const float4 from = __ldcg(reinterpret_cast<const float4*>(partial + element));
      const float2 exponents =
          __ldcg(reinterpret_cast<const float2*>(partial + PartialExponents(params, head)));
      const SegmentMerge merge(exponents.x, exponents.y, maximum, sum);
      value.x = merge.Merged(from.x, value.x);
      value.y = merge.Merged(from.y, value.y);
      value.z = merge.Merged(from.z, value.z);
      value.w = merge.Merged(from.w, value.w);
    }
    const float factor = __frcp_rn(sum);
    T* outputs = static_cast<T*>(params.args.outputs) +
                 static_cast<size_t>(item.row) * params.args.num_heads * params.args.head_dim;
    StoreOutput(outputs + element,
                make_float4(__fmul_rn(value.x, factor), __fmul_rn(value.y, factor),
                            __fmul_rn(value.z, factor), __fmul_rn(value.w, factor)));
  }
}

// Lets `kernel` have that much dynamic shared memory.
template <typename Kernel>
cudaError_t AllowShared(Kernel* kernel, size_t shared_bytes) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(shared_bytes));
}

template <typename Kernel, typename... Arguments>
cudaError_t LaunchAttention(Kernel* kernel, uint32_t num_blocks, uint32_t num_threads,
                            size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
  if (num_blocks == 0) return cudaSuccess;
  if (const cudaError_t error = AllowShared(kernel, shared_bytes); error != cudaSuccess) {
    return error;
  }
  return LaunchKernel(kernel, dim3(num_blocks), dim3(num_threads), shared_bytes, stream,
                      arguments...);
}

// Thread blocks of `kernel` that a multiprocessor holds.
template <typename Kernel>
cudaError_t ResidentBlocks(Kernel* kernel, uint32_t num_threads, size_t shared_bytes,
                           int* num_blocks) {
  if (const cudaError_t error = AllowShared(kernel, shared_bytes); error != cudaSuccess) {
    return error;
  }
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(num_blocks,
                                                       reinterpret_cast<const void*>(kernel),
                                                       static_cast<int>(num_threads), shared_bytes);
}

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_INL_CUH_
