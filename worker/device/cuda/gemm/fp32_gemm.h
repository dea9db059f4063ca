#ifndef QUIRE_WORKER_DEVICE_CUDA_GEMM_FP32_GEMM_H_
#define QUIRE_WORKER_DEVICE_CUDA_GEMM_FP32_GEMM_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace quire::cuda {

// y = x · Wᵀ (+ bias) in fp32 for any number of rows: x [m, k], weights [n, k], y [m, n], bias [n]
// or null. An output is one chain of fused multiply-adds over K, ascending, from zero; then the
// bias is added. For checking the model's numbers against others, not for speed. REQUIRES: k is a
// multiple of 16.
cudaError_t Fp32Gemm(const float* x, const float* weights, const float* bias, float* y, uint32_t m,
                     uint32_t n, uint32_t k, cudaStream_t stream);

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_GEMM_FP32_GEMM_H_
