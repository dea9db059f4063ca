#ifndef QUIRE_WORKER_DEVICE_CUDA_GEMM_SKINNY_OUTPUTS_INL_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_GEMM_SKINNY_OUTPUTS_INL_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "worker/device/cuda/gemm/skinny_chain_inl.cuh"
#include "worker/device/cuda/kernels/kv_layout.h"
#include "worker/device/cuda/kernels/pointwise_inl.cuh"

// What the kernel of skinny_gemm.cu makes of its sums. To be included by .cu files alone.
namespace quire::cuda::skinny {

// What becomes of one row's outputs `low` and `high` of a lane: 8 apart in a tile, or a pair. What
// does not depend on the product is read by the constructor: where registers are plenty that is
// before the chains, and it is there in time.
template <Epilogue kEpilogue>
class LaneOutputs {
 public:
  LaneOutputs() = default;
  __device__ __forceinline__ LaneOutputs(const Params& p, uint32_t tile, uint32_t row, int lane) {
    const uint32_t low = tile * kTileOutputs + lane / 4;
    has_low_ = row < p.m && low < p.n;
    has_high_ = row < p.m && low + 8 < p.n;
    const size_t at = size_t{row} * p.n + low;
    if constexpr (kEpilogue == Epilogue::kStoreFp32) {
      to_fp32_ = static_cast<float*>(p.y) + at;
    } else {
      to_ = static_cast<__nv_bfloat16*>(p.y) + at;
    }
    if (p.bias != nullptr) {
      if (has_low_) low_bias_ = __bfloat162float(p.bias[low]);
      if (has_high_) high_bias_ = __bfloat162float(p.bias[low + 8]);
    }
    if constexpr (kEpilogue == Epilogue::kAdd) {
      if (has_low_) low_before_ = __bfloat162float(to_[0]);
      if (has_high_) high_before_ = __bfloat162float(to_[8]);
    }
  }

  __device__ __forceinline__ void Put(const Params& p, float low, float high) const {
    if (p.bias != nullptr) {
      low = __fadd_rn(low, low_bias_);
      high = __fadd_rn(high, high_bias_);
    }
    if constexpr (kEpilogue == Epilogue::kStoreFp32) {
      if (has_low_) to_fp32_[0] = low;
      if (has_high_) to_fp32_[8] = high;
      return;
    }
    if constexpr (kEpilogue == Epilogue::kAdd) {
      low = __fadd_rn(low_before_, RoundTo<__nv_bfloat16>(low));
      high = __fadd_rn(high_before_, RoundTo<__nv_bfloat16>(high));
    }
    if (has_low_) to_[0] = __float2bfloat16_rn(low);
    if (has_high_) to_[8] = __float2bfloat16_rn(high);
  }

 private:
  bool has_low_ = false, has_high_ = false;
  __nv_bfloat16* to_ = nullptr;
  float* to_fp32_ = nullptr;
  float low_bias_ = 0, high_bias_ = 0;
  float low_before_ = 0, high_before_ = 0;
};

// Pairs. Their biases come before what follows the product, so both are rounded first.
class LanePair {
 public:
  LanePair() = default;
  __device__ __forceinline__ LanePair(const Params& p, uint32_t tile, uint32_t row, int lane) {
    const uint32_t tiles_per_group = p.pairing.half / 8;
    group_ = tile / tiles_per_group;
    index_ = tile % tiles_per_group * 8 + lane / 4;
    exists_ = row < p.m && group_ < p.pairing.num_groups;
    if (p.bias == nullptr || !exists_) return;
    const uint32_t output = group_ * 2 * p.pairing.half + index_;
    low_bias_ = __bfloat162float(p.bias[output]);
    high_bias_ = __bfloat162float(p.bias[output + p.pairing.half]);
  }

 protected:
  __device__ __forceinline__ void AddBias(const Params& p, float* low, float* high) const {
    if (p.bias != nullptr) {
      *low = __fadd_rn(*low, low_bias_);
      *high = __fadd_rn(*high, high_bias_);
    }
    *low = RoundTo<__nv_bfloat16>(*low);
    *high = RoundTo<__nv_bfloat16>(*high);
  }

  bool exists_ = false;
  uint32_t group_ = 0, index_ = 0;  // of 2 · half outputs; within a half
  float low_bias_ = 0, high_bias_ = 0;
};

template <>
class LaneOutputs<Epilogue::kSiluMul> : public LanePair {
 public:
  LaneOutputs() = default;
  __device__ __forceinline__ LaneOutputs(const Params& p, uint32_t tile, uint32_t row, int lane)
      : LanePair(p, tile, row, lane),
        to_(static_cast<__nv_bfloat16*>(p.y) + size_t{row} * p.pairing.half + index_) {}

  __device__ __forceinline__ void Put(const Params& p, float low, float high) const {
    if (!exists_) return;
    AddBias(p, &low, &high);
    *to_ = __float2bfloat16_rn(SiluMulOf<__nv_bfloat16>(low, high));
  }

 private:
  __nv_bfloat16* to_ = nullptr;
};

template <>
class LaneOutputs<Epilogue::kRotateStore> : public LanePair {
 public:
  LaneOutputs() = default;
  __device__ __forceinline__ LaneOutputs(const Params& p, uint32_t tile, uint32_t row, int lane)
      : LanePair(p, tile, row, lane) {
    const RotateStoreArgs& args = p.rotate;
    const int32_t slot = exists_ ? args.row_slots[row] : -1;
    if (slot < 0) return;
    const uint32_t position = args.row_positions[row];
    rotates_ = group_ < args.num_heads + args.num_kv_heads;
    if (rotates_) {
      const size_t angle = size_t{position} * p.pairing.half + index_;
      cos_ = args.cos[angle];
      sin_ = args.sin[angle];
    }
    if (group_ < args.num_heads) {
      to_ = static_cast<__nv_bfloat16*>(args.qkv) + size_t{row} * p.n +
            group_ * 2 * p.pairing.half + index_;
      return;
    }
    const KvLayout layout{args.num_kv_heads, args.block_size, args.head_dim};
    const uint32_t block =
        args.block_tables[size_t(slot) * args.table_stride + position / args.block_size];
    to_ = static_cast<__nv_bfloat16*>(args.kv) +
          layout.key(block, (group_ - args.num_heads) % args.num_kv_heads,
                     position % args.block_size) +
          (rotates_ ? 0 : layout.value_offset()) + index_;
  }

  __device__ __forceinline__ void Put(const Params& p, float low, float high) const {
    if (to_ == nullptr) return;
    AddBias(p, &low, &high);
    if (rotates_) RotatePair<__nv_bfloat16>(cos_, sin_, &low, &high);
    to_[0] = __float2bfloat16_rn(low);
    to_[p.pairing.half] = __float2bfloat16_rn(high);
  }

 private:
  __nv_bfloat16* to_ = nullptr;  // null: a row or a head that is none
  bool rotates_ = false;
  float cos_ = 0, sin_ = 0;
};

}  // namespace quire::cuda::skinny

#endif  // QUIRE_WORKER_DEVICE_CUDA_GEMM_SKINNY_OUTPUTS_INL_CUH_
