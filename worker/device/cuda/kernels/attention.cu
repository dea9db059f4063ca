#include "worker/device/cuda/kernels/attention.h"

#include <algorithm>
#include <bit>
#include <numbers>

#include "worker/device/cuda/kernels/attention_kernels.h"

namespace quire::cuda {
namespace {

using Bf16Kernels = AttentionKernels<DType::kBF16>;
using F32Kernels = AttentionKernels<DType::kF32>;

bool Supported(const AttentionArgs& args) {
  return (args.dtype == DType::kBF16 || (args.dtype == DType::kF32 && args.exact)) &&
         args.num_kv_heads > 0 && args.num_heads > 0 && args.num_heads % args.num_kv_heads == 0 &&
         args.head_dim > 0 && args.head_dim <= 256 && args.head_dim % 16 == 0 &&
         args.block_size >= 16 && args.block_size <= kAttentionSegment &&
         std::has_single_bit(args.block_size) && args.scale > 0;
}

AttentionParams MakeParams(const AttentionArgs& args) {
  AttentionParams params;
  params.args = args;
  params.group = args.num_heads / args.num_kv_heads;
  params.block_shift = static_cast<uint32_t>(std::countr_zero(args.block_size));
  params.exponent_scale = args.scale * std::numbers::log2e_v<float>;
  params.part_floats = static_cast<uint32_t>(PartialFloats(args.num_heads, args.head_dim));
  return params;
}

}  // namespace

// Sums of a head after each other, then each head's maximum and sum of powers; rounded up to keep
// the next item aligned.
size_t PartialFloats(uint32_t num_heads, uint32_t head_dim) {
  return (size_t{num_heads} * (head_dim + 2) + 3) / 4 * 4;
}

uint32_t PrefillTilePositions(uint32_t num_heads, uint32_t num_kv_heads) {
  return std::max(1u, kAttentionTile / (num_heads / num_kv_heads));
}

cudaError_t DecodeAttention(const AttentionArgs& args, const DecodeItem* items,
                            const uint32_t* num_items, uint32_t num_blocks, cudaStream_t stream) {
  if (!Supported(args)) return cudaErrorInvalidValue;
  const AttentionParams params = MakeParams(args);
  return args.dtype == DType::kBF16
             ? Bf16Kernels::Decode(params, items, num_items, num_blocks, stream)
             : F32Kernels::Decode(params, items, num_items, num_blocks, stream);
}

cudaError_t PrefillAttention(const AttentionArgs& args, const PrefillTile* tiles,
                             uint32_t num_tiles, cudaStream_t stream) {
  if (!Supported(args)) return cudaErrorInvalidValue;
  const AttentionParams params = MakeParams(args);
  return args.dtype == DType::kBF16 ? Bf16Kernels::Prefill(params, tiles, num_tiles, stream)
                                    : F32Kernels::Prefill(params, tiles, num_tiles, stream);
}

cudaError_t DecodeAttentionBlocks(const AttentionArgs& args, uint32_t* num_blocks) {
  if (!Supported(args)) return cudaErrorInvalidValue;
  const AttentionParams params = MakeParams(args);
  int per_multiprocessor = 0;
  cudaError_t error = args.dtype == DType::kBF16
                          ? Bf16Kernels::DecodeBlocks(params, &per_multiprocessor)
                          : F32Kernels::DecodeBlocks(params, &per_multiprocessor);
  if (error != cudaSuccess) return error;
  int device = 0;
  int multiprocessors = 0;
  if (error = cudaGetDevice(&device); error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  *num_blocks = static_cast<uint32_t>(per_multiprocessor * multiprocessors);
  return cudaSuccess;
}

}  // namespace quire::cuda
