#include "worker/device/cuda/gemm/trial.h"

#include <cuda_bf16.h>

namespace quire::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 1024;

// SplitMix64's finalizer (Steele, Lea, Flood, OOPSLA 2014).
__device__ __forceinline__ uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// Outliers: where exponents differ sums show how they were aligned.
__global__ void FillKernel(__nv_bfloat16* data, size_t count, uint64_t seed, float deviation,
                           bool outliers) {
  const size_t step = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    const uint64_t bits = Mix(seed + (i + 1) * 0x9E3779B97F4A7C15ull);
    // The sum of four uniform numbers: variance 1/3.
    const float sum = static_cast<float>((bits & 0xFFFF) + (bits >> 16 & 0xFFFF) +
                                         (bits >> 32 & 0xFFFF) + (bits >> 48)) *
                          0x1p-16f -
                      2.0f;
    float value = sum * 1.7320508f * deviation;
    if (outliers) {
      const uint64_t more = Mix(bits);
      const int exponent = 1 + static_cast<int>((more >> 8) % 10);
      if ((more & 63) == 0) value = ldexpf(value, exponent);
      if ((more & 63) == 1) value = ldexpf(value, -exponent);
    }
    data[i] = __float2bfloat16_rn(value);
  }
}

template <typename T>
__global__ void CountKernel(const T* a, const T* b, size_t count, unsigned long long* differing) {
  unsigned long long mine = 0;
  const size_t step = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    if (a[i] != b[i]) ++mine;
  }
  if (mine > 0) atomicAdd(differing, mine);
}

}  // namespace

cudaError_t FillNormalBf16(void* data, size_t count, uint64_t seed, float deviation,
                           cudaStream_t stream) {
  FillKernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<__nv_bfloat16*>(data), count, seed,
                                               deviation, false);
  return cudaGetLastError();
}

cudaError_t FillActivationsBf16(void* data, size_t count, uint64_t seed, cudaStream_t stream) {
  FillKernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<__nv_bfloat16*>(data), count, seed, 1.0f,
                                               true);
  return cudaGetLastError();
}

cudaError_t CountDiffering(const void* a, const void* b, size_t count, uint32_t element_bytes,
                           unsigned long long* differing, cudaStream_t stream) {
  if (cudaError_t error = cudaMemsetAsync(differing, 0, sizeof(*differing), stream);
      error != cudaSuccess) {
    return error;
  }
  if (element_bytes == 2) {
    CountKernel<<<kBlocks, kThreads, 0, stream>>>(
        static_cast<const uint16_t*>(a), static_cast<const uint16_t*>(b), count, differing);
  } else {
    CountKernel<<<kBlocks, kThreads, 0, stream>>>(
        static_cast<const uint32_t*>(a), static_cast<const uint32_t*>(b), count, differing);
  }
  return cudaGetLastError();
}

}  // namespace quire::cuda
