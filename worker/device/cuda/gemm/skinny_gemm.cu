#include "worker/device/cuda/gemm/skinny_gemm.h"

#include <cuda_bf16.h>

#include <algorithm>

#include "worker/device/cuda/kernels/kv_layout.h"
#include "worker/device/cuda/kernels/launch.h"
#include "worker/device/cuda/kernels/pointwise_inl.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kTileOutputs = 16;  // of a compute warp
constexpr uint32_t kBoxWidth = 64;     // elements along K: 128 bytes, the swizzle's width
constexpr uint32_t kTileBytes = kTileOutputs * kBoxWidth * 2;
constexpr uint32_t kInputBytes = 8 * kBoxWidth * 2;  // 8 rows of x in a box
// Of a thread block: as many as leave each warp the registers for its rows.
__host__ __device__ constexpr uint32_t MaxTiles(uint32_t halves) { return halves == 4 ? 8 : 16; }
constexpr uint32_t kMaxStages = 8;
constexpr uint32_t kMostFewTiles = 3;  // see Ring
constexpr uint32_t kMaxBoxes = 8;      // of 64 along K, in a stage; with many tiles, 2
constexpr uint32_t kStageBytes = 40 * 1024;
// Bytes that a thread block keeps under way. The small ring leaves room for another thread block on
// the multiprocessor, so that the next kernel's first weights are under way while this one ends;
// the large one reaches further ahead, which pays where a multiprocessor has much to read.
constexpr uint32_t kSmallRing = 104 * 1024;
constexpr uint32_t kLargeRing = 190 * 1024;
constexpr uint64_t kLargeShare = 250 * 1000;  // bytes of weights a multiprocessor

// What becomes of an output, or of a pair of them.
enum class Epilogue { kStore, kStoreFp32, kAdd, kSiluMul, kRotateStore };

template <Epilogue kEpilogue>
inline constexpr bool kIsPaired =
    kEpilogue == Epilogue::kSiluMul || kEpilogue == Epilogue::kRotateStore;

struct Params {
  void* y = nullptr;
  const __nv_bfloat16* bias = nullptr;
  uint32_t m = 0, n = 0, k = 0;
  uint32_t num_rounds = 0;  // of `tiles` tiles, one thread block each
  bool is_flat = false;     // see EncodeMatrix
  SkinnyShape shape;
  SkinnyPairing pairing;
  RotateStoreArgs rotate;
};

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
// The same value, which the compiler keeps in a register: it would rather work out a shared address
// anew in each turn of a loop, which here takes longer than the turn.
__device__ __forceinline__ uint32_t Keep(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}
__device__ __forceinline__ void InitBarrier(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
__device__ __forceinline__ void ExpectBytes(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void Wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// A box of `map` from column, row and box of columns on; see EncodeMatrix.
__device__ __forceinline__ void CopyBox(uint32_t to, const CUtensorMap* map, uint32_t column,
                                        uint32_t row, uint32_t box, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(box)
      : "memory");
}
__device__ __forceinline__ void LoadMatrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
// One step of 16 along K.
__device__ __forceinline__ void MultiplyAdd(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
      " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Where a lane finds its shares of a box of weights and of inputs.
struct LaneAddresses {
  uint32_t weights[4];  // a step each
  uint32_t inputs[2];   // two steps each

  // `low` and `high` are the shared addresses of the tile's first and last 8 outputs, `input` that
  // of the inputs.
  __device__ __forceinline__ LaneAddresses(uint32_t low, uint32_t high, uint32_t input, int lane) {
    const uint32_t row = lane % 8;
    const uint32_t outputs = (lane / 8 % 2 == 0 ? low : high) + row * 128;
#pragma unroll
    for (uint32_t step = 0; step < 4; ++step) {
      weights[step] = outputs + (((step * 2 + lane / 16) ^ row) << 4);
    }
#pragma unroll
    for (uint32_t pair = 0; pair < 2; ++pair) {
      inputs[pair] = input + row * 128 + (((pair * 4 + lane / 8) ^ row) << 4);
    }
  }

  __device__ __forceinline__ void Add(uint32_t bytes) {
#pragma unroll
    for (uint32_t& address : weights) address += bytes;
#pragma unroll
    for (uint32_t& address : inputs) address += bytes;
  }
};

// The operands of four steps: 16 outputs by 64 of K, and the inputs of 8 · kHalves rows.
template <int kHalves>
struct Operands {
  uint32_t weights[4][4];
  uint32_t inputs[kHalves][2][4];

  // `offset` is known at compile time where it matters, and then costs nothing.
  __device__ __forceinline__ void Load(const LaneAddresses& at, uint32_t offset,
                                       uint32_t input_offset) {
#pragma unroll
    for (uint32_t step = 0; step < 4; ++step)
      LoadMatrices(weights[step], at.weights[step] + offset);
#pragma unroll
    for (uint32_t h = 0; h < kHalves; ++h) {
#pragma unroll
      for (uint32_t pair = 0; pair < 2; ++pair) {
        LoadMatrices(inputs[h][pair], at.inputs[pair] + h * kInputBytes + input_offset);
      }
    }
  }

  __device__ __forceinline__ void AddTo(float (&sums)[kHalves][4]) const {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        MultiplyAdd(sums[h], weights[step], inputs[h][step / 2][step % 2 * 2],
                    inputs[h][step / 2][step % 2 * 2 + 1]);
      }
    }
  }
};

// A ring of stages in shared memory: what the copying warp and the compute warps agree on. A stage
// is what few requests bring, since the copy engine takes a hundred nanoseconds for each, however
// small. Its weights, in 8 outputs by 64 of K:
//   few tiles                  [tile][half][box]   a request a tile and half
//   many, without pairs        [box][tile][half]   one request
//   many, pairs in one group   [half][box][tile]   a request a half
//   many, pairs in groups      [tile][half][box]   a request a tile and half
// and then the inputs, [box][row][64 of K], one request. With few tiles a warp's chain is what
// takes time, and kBoxes, known at compile time, lets it find its boxes without reckoning.
template <int kHalves, int kBoxes, bool kFewTiles>
struct Ring {
  static constexpr uint32_t kHalfTile = kTileBytes / 2;

  uint32_t data;     // shared address, aligned to 1,024
  uint32_t filled;   // barriers, one a stage
  uint32_t emptied;  // likewise
  uint32_t tiles, stages;
  uint32_t tile_stride, half_stride, box_stride_;  // bytes

  __device__ __forceinline__ Ring(uint32_t data, uint32_t barriers, const Params& p)
      : data(Keep(data)),
        filled(Keep(barriers)),
        emptied(filled + kMaxStages * 8),
        tiles(p.shape.tiles),
        stages(p.shape.stages) {
    if (kFewTiles || p.pairing.num_groups > 1) {
      box_stride_ = kHalfTile;
      half_stride = kBoxes * kHalfTile;
      tile_stride = 2 * half_stride;
    } else if (p.pairing.half == 0) {
      half_stride = kHalfTile;
      tile_stride = kTileBytes;
      box_stride_ = tiles * kTileBytes;
    } else {
      tile_stride = kHalfTile;
      box_stride_ = tiles * kHalfTile;
      half_stride = kBoxes * box_stride_;
    }
  }

  __device__ __forceinline__ uint32_t box_stride() const {
    return kFewTiles ? kHalfTile : box_stride_;
  }
  __device__ __forceinline__ uint32_t weight_bytes() const { return kBoxes * tiles * kTileBytes; }
  __device__ __forceinline__ uint32_t stage_bytes() const {
    return weight_bytes() + kBoxes * kHalves * kInputBytes;
  }
  __device__ __forceinline__ uint32_t stage(uint32_t index) const {
    return data + index * stage_bytes();
  }
  __device__ __forceinline__ uint32_t inputs(uint32_t index) const {
    return stage(index) + weight_bytes();
  }
};

template <int kBoxes>
__device__ __forceinline__ uint32_t NumStages(uint32_t k) {
  return (k + kBoxes * kBoxWidth - 1) / (kBoxes * kBoxWidth);
}

// Where a walk over the ring stands.
struct RingPosition {
  uint32_t stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void Advance(uint32_t stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Asks for a stage's weights, from box `first` of the round's tiles on, and says how much will come
// in all. What lies beyond the matrix comes as zeros, which leave a chain's sum as it is.
template <int kHalves, int kBoxes, bool kFewTiles>
__device__ __forceinline__ void CopyWeights(const Ring<kHalves, kBoxes, kFewTiles>& ring,
                                            const CUtensorMap* weights, const Params& p,
                                            uint32_t stage, uint32_t round, uint32_t first) {
  const uint32_t barrier = ring.filled + stage * 8;
  ExpectBytes(barrier, ring.stage_bytes());
  const uint32_t to = ring.stage(stage);
  const uint32_t column = p.is_flat ? first * kBoxWidth : 0;
  const uint32_t box = p.is_flat ? 0 : first;
  const uint32_t first_tile = round * ring.tiles;
  const uint32_t half = p.pairing.half;
  if (!kFewTiles && half == 0) {
    CopyBox(to, weights, column, first_tile * kTileOutputs, box, barrier);
  } else if (!kFewTiles && p.pairing.num_groups == 1) {
    CopyBox(to, weights, column, first_tile * 8, box, barrier);
    CopyBox(to + ring.half_stride, weights, column, half + first_tile * 8, box, barrier);
  } else {
    // Without pairs a tile is 16 rows in a row, which a group of 8 and 8 describes as well.
    const uint32_t paired_half = half == 0 ? 8 : half;
    const uint32_t tiles_per_group = paired_half / 8;
    for (uint32_t tile = 0; tile < ring.tiles; ++tile) {
      const uint32_t at = first_tile + tile;
      const uint32_t row = at / tiles_per_group * 2 * paired_half + at % tiles_per_group * 8;
      const uint32_t low = to + tile * ring.tile_stride;
      CopyBox(low, weights, column, row, box, barrier);
      CopyBox(low + ring.half_stride, weights, column, row + paired_half, box, barrier);
    }
  }
}

template <int kHalves, int kBoxes, bool kFewTiles>
__device__ __forceinline__ void CopyAll(const Ring<kHalves, kBoxes, kFewTiles>& ring,
                                        const CUtensorMap* weights, const CUtensorMap* inputs,
                                        const Params& p) {
  const uint32_t num_stages = NumStages<kBoxes>(p.k);
  // Weights depend on no other kernel; the inputs are the work of the one before.
  const uint32_t early = min(ring.stages, num_stages);
  for (uint32_t s = 0; s < early; ++s) {
    CopyWeights(ring, weights, p, s, blockIdx.x, s * kBoxes);
  }
  WaitForPrimary();
  RingPosition at;
  for (uint32_t round = blockIdx.x; round < p.num_rounds; round += gridDim.x) {
    for (uint32_t s = 0; s < num_stages; ++s) {
      const uint32_t first = s * kBoxes;
      if (round != blockIdx.x || s >= early) {
        // A stage's first use finds it empty: the parity before the barrier's first phase.
        Wait(ring.emptied + at.stage * 8, at.parity ^ 1);
        CopyWeights(ring, weights, p, at.stage, round, first);
      }
      CopyBox(ring.inputs(at.stage), inputs, p.is_flat ? first * kBoxWidth : 0, 0,
              p.is_flat ? 0 : first, ring.filled + at.stage * 8);
      at.Advance(ring.stages);
    }
  }
}

// A warp's chains over all of K. The next box is loaded while one is multiplied, across stages too.
template <int kHalves, int kBoxes, bool kFewTiles>
__device__ __forceinline__ void ComputeChains(const Ring<kHalves, kBoxes, kFewTiles>& ring,
                                              uint32_t num_stages, int warp, int lane,
                                              RingPosition* at, float (&sums)[kHalves][4]) {
  const LaneAddresses first_stage(ring.data + warp * ring.tile_stride,
                                  ring.data + warp * ring.tile_stride + ring.half_stride,
                                  ring.data + ring.weight_bytes(), lane);
  const auto stage_at = [&](uint32_t stage) {
    LaneAddresses addresses = first_stage;
    addresses.Add(stage * ring.stage_bytes());
    return addresses;
  };
  Operands<kHalves> operands[2];
  Wait(ring.filled + at->stage * 8, at->parity);
  LaneAddresses addresses = stage_at(at->stage);
  operands[0].Load(addresses, 0, 0);
  for (uint32_t s = 0; s < num_stages; ++s) {
    const uint32_t released = ring.emptied + at->stage * 8;
    at->Advance(ring.stages);
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) {
      Operands<kHalves>& now = operands[box % 2];
      Operands<kHalves>& next = operands[(box + 1) % 2];
      if (box + 1 < kBoxes) {
        next.Load(addresses, (box + 1) * ring.box_stride(), (box + 1) * kHalves * kInputBytes);
      } else if (s + 1 < num_stages) {
        Wait(ring.filled + at->stage * 8, at->parity);
        addresses = stage_at(at->stage);
        next.Load(addresses, 0, 0);
      }
      now.AddTo(sums);
    }
    if constexpr (kBoxes % 2 == 1) operands[0] = operands[1];
    // All of the stage's boxes were loaded.
    __syncwarp();
    if (lane == 0) Arrive(released);
  }
}

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

template <int kHalves, int kBoxes, bool kFewTiles, Epilogue kEpilogue>
__global__ void __launch_bounds__(((kFewTiles ? kMostFewTiles : MaxTiles(kHalves)) + 1) * 32)
    SkinnyKernel(const __grid_constant__ CUtensorMap weights,
                 const __grid_constant__ CUtensorMap inputs, const Params p) {
  extern __shared__ uint8_t shared[];
  __shared__ alignas(8) uint64_t barriers[2 * kMaxStages];
  const Ring<kHalves, kBoxes, kFewTiles> ring((SharedAddress(shared) + 1023) & ~1023u,
                                              SharedAddress(barriers), p);
  LetSecondaryStart();
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < ring.stages; ++i) {
      InitBarrier(ring.filled + i * 8, 1);
      InitBarrier(ring.emptied + i * 8, ring.tiles);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();

  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (warp == static_cast<int>(ring.tiles)) {
    if (lane == 0) CopyAll(ring, &weights, &inputs, p);
    return;
  }
  // Slots, positions and block tables were there before the step began; a residual was not.
  if constexpr (kEpilogue == Epilogue::kAdd) WaitForPrimary();
  RingPosition at;
  for (uint32_t round = blockIdx.x; round < p.num_rounds; round += gridDim.x) {
    const uint32_t tile = round * ring.tiles + warp;
    LaneOutputs<kEpilogue> outputs[2 * kHalves];
    const auto find_outputs = [&] {
#pragma unroll
      for (int i = 0; i < 2 * kHalves; ++i) {
        outputs[i] = LaneOutputs<kEpilogue>(p, tile, i / 2 * 8 + lane % 4 * 2 + i % 2, lane);
      }
    };
    if constexpr (kFewTiles) find_outputs();
    float sums[kHalves][4] = {};
    ComputeChains(ring, NumStages<kBoxes>(p.k), warp, lane, &at, sums);
    if constexpr (!kFewTiles) find_outputs();
#pragma unroll
    for (int i = 0; i < 2 * kHalves; ++i) {
      outputs[i].Put(p, sums[i / 2][i % 2], sums[i / 2][2 + i % 2]);
    }
  }
}

// A row-major bf16 matrix [rows, k] as the copy engine sees it: boxes of 64 columns,
// [box][row][64], of which a request brings `boxes` at once. That takes a k of whole boxes; other
// matrices are seen flat, [1][row][k], a box at a time.
bool IsFlat(uint32_t k) { return k % kBoxWidth != 0; }

cudaError_t EncodeMatrix(const void* data, uint32_t rows, uint32_t k, uint32_t box_rows,
                         uint32_t boxes, CUtensorMap* map) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                     &found);
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint64_t sizes[3] = {IsFlat(k) ? k : kBoxWidth, rows, IsFlat(k) ? 1 : k / kBoxWidth};
  const cuuint64_t strides[2] = {cuuint64_t{k} * 2, kBoxWidth * 2};
  const cuuint32_t box[3] = {kBoxWidth, box_rows, boxes};
  const cuuint32_t steps[3] = {1, 1, 1};
  const CUresult result =
      encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(data), sizes, strides, box,
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// One round where MaxTiles a multiprocessor are enough, else as many rounds as waste least.
uint32_t ChooseTiles(uint32_t n, uint32_t halves, uint32_t num_sms) {
  const uint32_t total = (n + kTileOutputs - 1) / kTileOutputs;
  uint32_t best = MaxTiles(halves);
  uint64_t least = ~uint64_t{0};
  for (uint32_t tiles = MaxTiles(halves); tiles > 0; --tiles) {
    const uint32_t blocks = (total + tiles - 1) / tiles;
    const uint64_t cost = uint64_t{(blocks + num_sms - 1) / num_sms} * tiles;
    if (cost < least) {
      least = cost;
      best = tiles;
    }
  }
  return best;
}

SkinnyShape ChooseShape(uint32_t n, uint32_t k, uint32_t halves, const SkinnyPairing& pairing,
                        uint32_t num_sms) {
  SkinnyShape shape;
  shape.tiles = ChooseTiles(n, halves, num_sms);
  const uint32_t box_bytes = shape.tiles * kTileBytes + halves * kInputBytes;
  const uint32_t num_boxes = (k + kBoxWidth - 1) / kBoxWidth;
  // The most that make a stage and leave no box of the last one empty.
  shape.boxes = 1;
  const uint32_t most = IsFlat(k) ? 1 : shape.tiles > kMostFewTiles ? 2 : kMaxBoxes;
  while (shape.boxes < most && num_boxes % (2 * shape.boxes) == 0 &&
         2 * shape.boxes * box_bytes <= kStageBytes) {
    shape.boxes *= 2;
  }
  // After heads comes attention, which should find room.
  const bool is_large =
      pairing.num_groups == 1 && shape.tiles > 1 && uint64_t{n} * k * 2 > kLargeShare * num_sms;
  const uint32_t ring = is_large ? kLargeRing : kSmallRing;
  shape.stages = std::clamp(ring / (shape.boxes * box_bytes), 2u, kMaxStages);
  return shape;
}

uint32_t SharedBytes(const SkinnyShape& shape, uint32_t halves) {
  return shape.stages * shape.boxes * (shape.tiles * kTileBytes + halves * kInputBytes) + 1024;
}

cudaError_t CountMultiprocessors(uint32_t* count) {
  int device = 0;
  int num_sms = 0;
  if (cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device);
      error != cudaSuccess) {
    return error;
  }
  *count = static_cast<uint32_t>(num_sms);
  return cudaSuccess;
}

// Into the arrays of SkinnyGemm.
constexpr uint32_t IndexOf(uint32_t halves) { return halves == 4 ? 2 : halves - 1; }

template <int kHalves, int kBoxes, bool kFewTiles, Epilogue kEpilogue>
cudaError_t Launch(const SkinnyGemm& gemm, const Params& params, cudaStream_t stream) {
  constexpr auto kKernel = SkinnyKernel<kHalves, kBoxes, kFewTiles, kEpilogue>;
  static const cudaError_t allowed =
      cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(kLargeRing + kStageBytes / 2));
  if (allowed != cudaSuccess) return allowed;
  uint32_t num_sms = 0;
  if (cudaError_t error = CountMultiprocessors(&num_sms); error != cudaSuccess) return error;
  const uint32_t grid = std::min(params.num_rounds, num_sms);
  return LaunchKernel(kKernel, dim3(grid), dim3((params.shape.tiles + 1) * 32),
                      SharedBytes(params.shape, kHalves), stream, gemm.weights[IndexOf(kHalves)],
                      gemm.inputs[IndexOf(kHalves)], params);
}

template <int kHalves, Epilogue kEpilogue>
cudaError_t Launch(const SkinnyGemm& gemm, Params& params, cudaStream_t stream) {
  params.shape = gemm.shape[IndexOf(kHalves)];
  const uint32_t total = (gemm.n + kTileOutputs - 1) / kTileOutputs;
  params.num_rounds = (total + params.shape.tiles - 1) / params.shape.tiles;
  if (params.shape.tiles > kMostFewTiles) {
    return params.shape.boxes == 1 ? Launch<kHalves, 1, false, kEpilogue>(gemm, params, stream)
                                   : Launch<kHalves, 2, false, kEpilogue>(gemm, params, stream);
  }
  switch (params.shape.boxes) {
    case 1:
      return Launch<kHalves, 1, true, kEpilogue>(gemm, params, stream);
    case 2:
      return Launch<kHalves, 2, true, kEpilogue>(gemm, params, stream);
    case 4:
      return Launch<kHalves, 4, true, kEpilogue>(gemm, params, stream);
    default:
      return Launch<kHalves, 8, true, kEpilogue>(gemm, params, stream);
  }
}

template <Epilogue kEpilogue>
cudaError_t Run(const SkinnyGemm& gemm, uint32_t m, const void* bias, void* y,
                const RotateStoreArgs& rotate, cudaStream_t stream) {
  if (m == 0 || m > gemm.max_rows) return cudaErrorInvalidValue;
  if (kIsPaired<kEpilogue> != (gemm.pairing.half > 0)) return cudaErrorInvalidValue;
  Params params;
  params.y = y;
  params.bias = static_cast<const __nv_bfloat16*>(bias);
  params.m = m;
  params.n = gemm.n;
  params.k = gemm.k;
  params.is_flat = IsFlat(gemm.k);
  params.pairing = gemm.pairing;
  params.rotate = rotate;
  if (m > 16) return Launch<4, kEpilogue>(gemm, params, stream);
  return m > 8 ? Launch<2, kEpilogue>(gemm, params, stream)
               : Launch<1, kEpilogue>(gemm, params, stream);
}

}  // namespace

cudaError_t MakeSkinnyGemm(const void* weights, const void* inputs, uint32_t input_rows, uint32_t n,
                           uint32_t k, const SkinnyPairing& pairing, SkinnyGemm* gemm) {
  if (pairing.half % 8 != 0 || (pairing.half > 0 && n != 2 * pairing.half * pairing.num_groups)) {
    return cudaErrorInvalidValue;
  }
  uint32_t num_sms = 0;
  if (cudaError_t error = CountMultiprocessors(&num_sms); error != cudaSuccess) return error;
  gemm->n = n;
  gemm->k = k;
  gemm->pairing = pairing;
  gemm->max_rows = input_rows >= kSkinnyMostRows ? kSkinnyMostRows : kSkinnyMaxRows;
  for (const uint32_t halves : {1u, 2u, 4u}) {
    if (halves * 8 > gemm->max_rows) break;
    const uint32_t i = IndexOf(halves);
    const SkinnyShape shape = ChooseShape(n, k, halves, pairing, num_sms);
    gemm->shape[i] = shape;
    // What one request brings; see Ring.
    const bool is_by_tile = shape.tiles <= kMostFewTiles || pairing.num_groups > 1;
    const uint32_t rows = is_by_tile          ? 8
                          : pairing.half == 0 ? shape.tiles * kTileOutputs
                                              : shape.tiles * 8;
    cudaError_t error = EncodeMatrix(weights, n, k, rows, shape.boxes, &gemm->weights[i]);
    if (error == cudaSuccess) {
      error = EncodeMatrix(inputs, gemm->max_rows, k, halves * 8, shape.boxes, &gemm->inputs[i]);
    }
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t RunSkinnyGemm(const SkinnyGemm& gemm, uint32_t m, const void* bias, void* y,
                          bool fp32_output, cudaStream_t stream) {
  return fp32_output ? Run<Epilogue::kStoreFp32>(gemm, m, bias, y, {}, stream)
                     : Run<Epilogue::kStore>(gemm, m, bias, y, {}, stream);
}

cudaError_t RunSkinnyGemmAdd(const SkinnyGemm& gemm, uint32_t m, const void* bias, void* y,
                             cudaStream_t stream) {
  return Run<Epilogue::kAdd>(gemm, m, bias, y, {}, stream);
}

cudaError_t RunSkinnyGemmSiluMul(const SkinnyGemm& gemm, uint32_t m, const void* bias, void* y,
                                 cudaStream_t stream) {
  return Run<Epilogue::kSiluMul>(gemm, m, bias, y, {}, stream);
}

cudaError_t RunSkinnyGemmRotateStore(const SkinnyGemm& gemm, const void* bias,
                                     const RotateStoreArgs& args, cudaStream_t stream) {
  return Run<Epilogue::kRotateStore>(gemm, args.num_rows, bias, nullptr, args, stream);
}

}  // namespace quire::cuda
