#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_RMS_NORM_INL_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_RMS_NORM_INL_CUH_

#include <cstdint>

#include "worker/device/cuda/kernels/vec8.cuh"

// RMSNorm of a row by one thread block of kNormThreads threads: the same bits from whichever kernel
// calls it. Its recipe is a part of numerics_id.
//
// The row is cut into chunks of 8 elements; thread t holds the chunks t, t + 256, t + 512, ... It
// sums their squares element by element in that order, one chain of fused multiply-adds. The
// threads' sums meet in a tree: lanes 16, 8, 4, 2 and 1 apart, then the warps' sums w as
// ((w0 + w1) + (w2 + w3)) + ((w4 + w5) + (w6 + w7)).
namespace quire::cuda {

inline constexpr uint32_t kNormThreads = 256;

// The part of a row that a thread holds; chunks beyond the row's end are zero, which leaves the sum
// as it is. kChunks >= ceil(size / (8 · kNormThreads)); a larger one changes no bit.
template <typename T, int kChunks>
struct NormRow {
  Vec8<T> chunks[kChunks];
};

// Calls fn(i, offset) for each chunk i of this thread that lies in a row of `size` elements, at
// `offset`.
template <int kChunks, typename Fn>
__device__ __forceinline__ void ForEachChunk(uint32_t size, Fn fn) {
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const uint32_t offset = 8 * (threadIdx.x + i * kNormThreads);
    if (offset < size) fn(i, offset);
  }
}

// `row` is in global or in shared memory.
template <typename T, int kChunks>
__device__ __forceinline__ NormRow<T, kChunks> LoadNormRow(const T* row, uint32_t size) {
  NormRow<T, kChunks> out = {};
  ForEachChunk<kChunks>(size,
                        [&](int i, uint32_t offset) { out.chunks[i] = LoadVec8(row + offset); });
  return out;
}

template <typename T>
__device__ __forceinline__ float AddSquares(float sum, const Vec8<T>& chunk) {
  const Floats8 v = ToFloats(chunk);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = __fmaf_rn(v.x[i], v.x[i], sum);
  return sum;
}

// The sum over groups of `lanes` neighbouring lanes, a power of two, in every lane. All lanes of
// the warp call it.
__device__ __forceinline__ float SumOfLanes(float sum, uint32_t lanes) {
  for (uint32_t apart = lanes / 2; apart > 0; apart /= 2) {
    sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, apart));
  }
  return sum;
}

// The mean of the row's squares, in every thread. All threads of the block call it; `warp_sums`
// points to kNormThreads / 32 floats of shared memory, which no one writes until the block has
// passed its next barrier.
template <typename T, int kChunks>
__device__ __forceinline__ float MeanSquare(const NormRow<T, kChunks>& row, uint32_t size,
                                            float* warp_sums) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kChunks; ++i) sum = AddSquares(sum, row.chunks[i]);
  sum = SumOfLanes(sum, 32);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  const float low =
      __fadd_rn(__fadd_rn(warp_sums[0], warp_sums[1]), __fadd_rn(warp_sums[2], warp_sums[3]));
  const float high =
      __fadd_rn(__fadd_rn(warp_sums[4], warp_sums[5]), __fadd_rn(warp_sums[6], warp_sums[7]));
  return __fdiv_rn(__fadd_rn(low, high), static_cast<float>(size));
}

__device__ __forceinline__ float NormFactor(float mean_square, float eps) {
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean_square, eps)));
}

// x · factor, rounded to T, times the weight, rounded to T.
template <typename T>
__device__ __forceinline__ Vec8<T> NormChunk(const Vec8<T>& chunk, const Vec8<T>& weight,
                                             float factor) {
  const Floats8 x = ToFloats(chunk);
  const Floats8 w = ToFloats(weight);
  const Floats8 normed = RoundTo<T>(Map([&](int i) { return __fmul_rn(x.x[i], factor); }));
  return FromFloats<T>(Map([&](int i) { return __fmul_rn(normed.x[i], w.x[i]); }));
}

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_RMS_NORM_INL_CUH_
