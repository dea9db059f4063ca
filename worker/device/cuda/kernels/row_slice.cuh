#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_ROW_SLICE_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_ROW_SLICE_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "worker/device/cuda/kernels/row_cluster.cuh"

// The part of a row that a thread block looks at, and the first look.
namespace quire::cuda {

// Tokens of a slice: a multiple of 4. The last slices of a row may have fewer, or none.
__host__ __device__ constexpr uint32_t SliceCapacity(uint32_t vocabulary_size) {
  constexpr uint32_t kUnit = 4 * kClusterBlocks;
  return (vocabulary_size + kUnit - 1) / kUnit * 4;
}

// Tokens [first, first + size) of a row. Quad q is tokens 4 q to 4 q + 3 of them, of which the last
// quad may lack some, and is thread q % kClusterThreads's.
struct Slice {
  uint32_t first;
  uint32_t size;

  __device__ Slice(uint32_t vocabulary_size, uint32_t rank) {
    const uint32_t capacity = SliceCapacity(vocabulary_size);
    first = min(rank * capacity, vocabulary_size);
    size = min(capacity, vocabulary_size - first);
  }
  __device__ uint32_t num_quads() const { return (size + 3) / 4; }
};

// Numbers as integers of the same order. −0 comes before 0; who must not tell them apart asks for
// WithoutNegativeZero first.
__device__ inline uint32_t Ordered(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}
__device__ inline float FromOrdered(uint32_t ordered) {
  return __uint_as_float(ordered ^ (ordered >> 31 != 0 ? 0x80000000u : 0xFFFFFFFFu));
}
__device__ inline float WithoutNegativeZero(float x) { return __fadd_rn(x, 0.0f); }

// The best of the tokens that a thread has looked at, by rising id; before the first, token 0.
struct Best {
  float value = -INFINITY;
  uint32_t id = 0;

  __device__ void Consider(float other, uint32_t other_id) {
    if (other > value) {
      value = other;
      id = other_id;
    }
  }
  // As one integer: the greater, the better; ties to the lower id. Never ~0.
  __device__ uint64_t Packed() const {
    return uint64_t{Ordered(WithoutNegativeZero(value))} << 32 | static_cast<uint32_t>(~id);
  }
  static __device__ Best Unpack(uint64_t packed) {
    Best best;
    best.value = FromOrdered(static_cast<uint32_t>(packed >> 32));
    best.id = ~static_cast<uint32_t>(packed);
    return best;
  }
};

// Quad q of a slice's data, an array of fp32 or 32-bit integers, which is read once and not kept in
// the caches. Whatever the slice lacks is `missing`.
template <typename T>
__device__ void LoadQuad(const T* data, const Slice& slice, uint32_t q, T missing, T (&quad)[4]) {
  static_assert(sizeof(T) == 4);
  const T* const from = data + 4 * q;
  if (4 * q + 4 <= slice.size && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
    const uint4 words = __ldcs(reinterpret_cast<const uint4*>(from));
    memcpy(quad, &words, sizeof(words));
    return;
  }
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) {
    quad[j] = 4 * q + j < slice.size ? __ldcs(from + j) : missing;
  }
}

// What ScanLogits finds if some logit is not finite: greater than any Best.
inline constexpr uint64_t kNotFinite = ~uint64_t{0};

// The thread's share of a look at a slice of logits: its best token, packed, or kNotFinite. Each
// quad goes to keep(q, quad), with 0 for −0 and −inf for what the slice lacks.
template <typename Keep>
__device__ uint64_t ScanLogits(const float* logits, const Slice& slice, Keep keep) {
  constexpr uint32_t kBatch = 4;  // quads on their way at once
  const uint32_t num_quads = slice.num_quads();
  Best best;
  float zeros = 0;  // 0 · x is 0 unless x is infinite or a NaN
  for (uint32_t first = threadIdx.x; first < num_quads; first += kBatch * kClusterThreads) {
    float batch[kBatch][4];
#pragma unroll
    for (uint32_t b = 0; b < kBatch; ++b) {
      LoadQuad(logits, slice, first + b * kClusterThreads, -INFINITY, batch[b]);
    }
#pragma unroll
    for (uint32_t b = 0; b < kBatch; ++b) {
      const uint32_t q = first + b * kClusterThreads;
      if (q >= num_quads) break;
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
        batch[b][j] = WithoutNegativeZero(batch[b][j]);
        if (4 * q + j >= slice.size) continue;
        best.Consider(batch[b][j], slice.first + 4 * q + j);
        zeros = __fmaf_rn(batch[b][j], 0.0f, zeros);
      }
      keep(q, batch[b]);
    }
  }
  return zeros == 0 ? best.Packed() : kNotFinite;
}

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_ROW_SLICE_CUH_
