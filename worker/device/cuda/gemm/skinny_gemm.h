#ifndef QUIRE_WORKER_DEVICE_CUDA_GEMM_SKINNY_GEMM_H_
#define QUIRE_WORKER_DEVICE_CUDA_GEMM_SKINNY_GEMM_H_

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

// y = x · Wᵀ (+ bias) in bf16 for a few rows of x: what decoding a small batch needs, where reading
// the weights is all the work.
//
// The recipe, which is the reference for every matrix product of the CUDA executor in bf16: an
// output is one chain of tensor-core products over K in ascending steps of 16, accumulated in fp32
// from zero; then the bias is added in fp32 and the sum is rounded once. Measured on an H200, the
// warp-level (mma.sync m16n8k16) and the warpgroup-level (wgmma k16) instructions give the same
// bits for a step, and so do the kernels of cuBLASLt that do not split K (linear.h checks each
// one).
//
// Every warp owns 16 outputs and runs their chains over all of K, while one warp streams weights
// through shared memory with the bulk copy engine. The first weights are asked for before the
// kernel that makes x has ended (programmatic dependent launch).
namespace quire::cuda {

inline constexpr uint32_t kSkinnyMaxRows = 16;

// How the work is cut. Changes no bit.
struct SkinnyShape {
  uint32_t tiles = 0;  // of 16 outputs: compute warps of a thread block
  uint32_t boxes = 0;  // of 64 along K: in a stage
  uint32_t stages = 0;
};

// A weight matrix and an activation buffer, ready to be multiplied.
struct SkinnyGemm {
  CUtensorMap weights;    // [n, k]
  CUtensorMap inputs[2];  // [16, k] for up to 8 and up to 16 rows
  SkinnyShape shape[2];   // likewise
  uint32_t n = 0;
  uint32_t k = 0;
};

// `weights` is [n, k] and `inputs` [at least 16 rows, k], both bf16, row-major, aligned to 16
// bytes. REQUIRES: k is a multiple of 8. cudaErrorInvalidValue: the driver refuses the shape.
cudaError_t MakeSkinnyGemm(const void* weights, const void* inputs, uint32_t n, uint32_t k,
                           SkinnyGemm* gemm);

// y is [m, n] in bf16, or fp32 if `fp32_output`; bias is [n] in bf16 or null. All 16 input rows may
// be read, whatever they hold. REQUIRES: 0 < m <= kSkinnyMaxRows.
cudaError_t RunSkinnyGemm(const SkinnyGemm& gemm, uint32_t m, const void* bias, void* y,
                          bool fp32_output, cudaStream_t stream);

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_GEMM_SKINNY_GEMM_H_
