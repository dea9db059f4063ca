#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_KERNELS_H_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_KERNELS_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "worker/device/cuda/kernels/attention.h"

// What lies between attention.h's functions and the kernels of each dtype.
namespace quire::cuda {

inline constexpr uint32_t kTilesPerSegment = kAttentionSegment / kAttentionTile;

// AttentionArgs, checked, and what follows from them.
struct AttentionParams {
  AttentionArgs args;
  uint32_t group = 0;        // query heads of a KV head
  uint32_t block_shift = 0;  // log2 of the block size
  float exponent_scale = 0;  // scale · log2 e: e^(scale · s) = 2^(exponent_scale · s)
  uint32_t part_floats = 0;  // PartialFloats()
};

// As attention.h's functions of the same names, for one dtype.
template <DType kDType>
struct AttentionKernels {
  static cudaError_t Decode(const AttentionParams& params, const DecodeItem* items,
                            const uint32_t* num_items, uint32_t num_blocks, cudaStream_t stream);
  static cudaError_t Prefill(const AttentionParams& params, const PrefillTile* tiles,
                             uint32_t num_tiles, cudaStream_t stream);
  // Thread blocks of Decode that one multiprocessor holds.
  static cudaError_t DecodeBlocks(const AttentionParams& params, int* num_blocks);
};

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_ATTENTION_KERNELS_H_
