#ifndef QUIRE_WORKER_DEVICE_CUDA_GEMM_SKINNY_CHAIN_INL_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_GEMM_SKINNY_CHAIN_INL_CUH_

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "worker/device/cuda/gemm/skinny_gemm.h"
#include "worker/device/cuda/kernels/launch.h"
#include "worker/device/cuda/kernels/ptx.cuh"

// How the kernel of skinny_gemm.cu comes by its sums: the ring through which weights and inputs
// stream, and the chains that the warps run over them. To be included by .cu files alone.
namespace quire::cuda::skinny {

constexpr uint32_t kTileOutputs = 16;  // of a compute warp
constexpr uint32_t kBoxWidth = 64;     // elements along K: 128 bytes, the swizzle's width
constexpr uint32_t kTileBytes = kTileOutputs * kBoxWidth * 2;
constexpr uint32_t kInputBytes = 8 * kBoxWidth * 2;  // 8 rows of x in a box
// Of a thread block: as many as leave each warp the registers for its rows.
__host__ __device__ constexpr uint32_t MaxTiles(uint32_t halves) { return halves == 4 ? 8 : 16; }
constexpr uint32_t kMaxStages = 8;
constexpr uint32_t kMostFewTiles = 3;  // see Ring
constexpr uint32_t kMaxBoxes = 8;      // of 64 along K, in a stage; with many tiles, 2

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
// Unlike those of kernels/ptx.cuh, this and MultiplyAdd stay in the order in which they are
// written: the loads of a stage must not pass its barrier, and the schedule overlaps stages by
// hand.
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

}  // namespace quire::cuda::skinny

#endif  // QUIRE_WORKER_DEVICE_CUDA_GEMM_SKINNY_CHAIN_INL_CUH_
