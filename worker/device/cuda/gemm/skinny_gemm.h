#ifndef QUIRE_WORKER_DEVICE_CUDA_GEMM_SKINNY_GEMM_H_
#define QUIRE_WORKER_DEVICE_CUDA_GEMM_SKINNY_GEMM_H_

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "worker/device/cuda/kernels/elementwise.h"

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

// Rows up to which this is what should compute a product, and up to which it can.
inline constexpr uint32_t kSkinnyMaxRows = 16;
inline constexpr uint32_t kSkinnyMostRows = 32;

// How the work is cut. Changes no bit.
struct SkinnyShape {
  uint32_t tiles = 0;  // of 16 outputs: compute warps of a thread block
  uint32_t boxes = 0;  // of 64 along K: in a stage
  uint32_t stages = 0;
};

// Which outputs a warp owns: 16 in a row; or 8 in a row and the 8 that go with them, so that what
// follows the product can be computed where both are: of `num_groups` groups of 2 · half outputs,
// output i of a group goes with output half + i.
struct SkinnyPairing {
  uint32_t half = 0;  // 0: none; else a multiple of 8
  uint32_t num_groups = 1;
};

// A weight matrix and an activation buffer, ready to be multiplied.
struct SkinnyGemm {
  // For up to 8, 16 and 32 rows.
  CUtensorMap weights[3];
  CUtensorMap inputs[3];
  SkinnyShape shape[3];
  uint32_t max_rows = 0;  // kSkinnyMaxRows, or kSkinnyMostRows where there are as many input rows
  SkinnyPairing pairing;
  uint32_t n = 0;
  uint32_t k = 0;
};

// `weights` is [n, k] and `inputs` [input_rows, k], both bf16, row-major, aligned to 16 bytes; all
// input rows up to max_rows may be read, whatever they hold. REQUIRES: input_rows >= 16; k is a
// multiple of 8; with a pairing, n is 2 · half · num_groups. cudaErrorInvalidValue: the driver
// refuses the shape.
cudaError_t MakeSkinnyGemm(const void* weights, const void* inputs, uint32_t input_rows, uint32_t n,
                           uint32_t k, const SkinnyPairing& pairing, SkinnyGemm* gemm);

// The functions below enqueue the product of the first m input rows and what follows it. `bias` is
// [n] in bf16 or null. REQUIRES: 0 < m <= gemm.max_rows.

// y, [m, n] in bf16, or fp32 if `fp32_output`, is the product. REQUIRES: no pairing.
cudaError_t RunSkinnyGemm(const SkinnyGemm& gemm, uint32_t m, const void* bias, void* y,
                          bool fp32_output, cudaStream_t stream);

// y, [m, n] in bf16, grows by the product, both rounded. REQUIRES: no pairing.
cudaError_t RunSkinnyGemmAdd(const SkinnyGemm& gemm, uint32_t m, const void* bias, void* y,
                             cudaStream_t stream);

// y, [m, half] in bf16, is silu(gate) · up as SiluMul (elementwise.h) computes it. REQUIRES: the
// outputs are paired as one group of gate and up.
cudaError_t RunSkinnyGemmSiluMul(const SkinnyGemm& gemm, uint32_t m, const void* bias, void* y,
                                 cudaStream_t stream);

// What RotateStore (elementwise.h) makes of the product, without the norm of heads: queries go to
// args.qkv, keys and values to the KV store. REQUIRES: the outputs are paired as heads' halves.
cudaError_t RunSkinnyGemmRotateStore(const SkinnyGemm& gemm, const void* bias,
                                     const RotateStoreArgs& args, cudaStream_t stream);

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_GEMM_SKINNY_GEMM_H_
