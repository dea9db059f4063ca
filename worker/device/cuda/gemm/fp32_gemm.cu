#include "worker/device/cuda/gemm/fp32_gemm.h"

#include "worker/device/cuda/kernels/launch.h"

namespace quire::cuda {
namespace {

constexpr int kTile = 64;      // rows and outputs of a thread block
constexpr int kDepth = 16;     // of K at a time
constexpr int kPerThread = 4;  // rows, and outputs, of a thread
constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    Fp32GemmKernel(const float* __restrict__ x, const float* __restrict__ weights,
                   const float* __restrict__ bias, float* __restrict__ y, uint32_t m, uint32_t n,
                   uint32_t k) {
  __shared__ float rows[kDepth][kTile + 4];
  __shared__ float outputs[kDepth][kTile + 4];
  LetSecondaryStart();
  WaitForPrimary();
  const uint32_t first_row = blockIdx.y * kTile;
  const uint32_t first_output = blockIdx.x * kTile;
  const int thread = threadIdx.x;
  // A thread loads four elements along K of one row and of one output.
  const uint32_t load_at = thread / 4;
  const uint32_t load_k = thread % 4 * 4;
  const int my_row = thread / 16 * kPerThread;
  const int my_output = thread % 16 * kPerThread;
  float sums[kPerThread][kPerThread] = {};
  for (uint32_t begin = 0; begin < k; begin += kDepth) {
    float4 a = make_float4(0, 0, 0, 0);
    float4 b = make_float4(0, 0, 0, 0);
    if (first_row + load_at < m) {
      a = *reinterpret_cast<const float4*>(x + size_t{first_row + load_at} * k + begin + load_k);
    }
    if (first_output + load_at < n) {
      b = *reinterpret_cast<const float4*>(weights + size_t{first_output + load_at} * k + begin +
                                           load_k);
    }
    __syncthreads();
    rows[load_k][load_at] = a.x;
    rows[load_k + 1][load_at] = a.y;
    rows[load_k + 2][load_at] = a.z;
    rows[load_k + 3][load_at] = a.w;
    outputs[load_k][load_at] = b.x;
    outputs[load_k + 1][load_at] = b.y;
    outputs[load_k + 2][load_at] = b.z;
    outputs[load_k + 3][load_at] = b.w;
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const float4 row = *reinterpret_cast<const float4*>(&rows[d][my_row]);
      const float4 output = *reinterpret_cast<const float4*>(&outputs[d][my_output]);
      const float r[kPerThread] = {row.x, row.y, row.z, row.w};
      const float o[kPerThread] = {output.x, output.y, output.z, output.w};
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) sums[i][j] = __fmaf_rn(r[i], o[j], sums[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const uint32_t row = first_row + my_row + i;
    if (row >= m) break;
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const uint32_t output = first_output + my_output + j;
      if (output >= n) break;
      y[size_t{row} * n + output] =
          bias != nullptr ? __fadd_rn(sums[i][j], bias[output]) : sums[i][j];
    }
  }
}

}  // namespace

cudaError_t Fp32Gemm(const float* x, const float* weights, const float* bias, float* y, uint32_t m,
                     uint32_t n, uint32_t k, cudaStream_t stream) {
  if (m == 0) return cudaSuccess;
  if (k % kDepth != 0) return cudaErrorInvalidValue;
  return LaunchKernel(Fp32GemmKernel, dim3((n + kTile - 1) / kTile, (m + kTile - 1) / kTile),
                      dim3(kThreads), 0, stream, x, weights, bias, y, m, n, k);
}

}  // namespace quire::cuda
