#include "worker/device/cuda/gemm/skinny_gemm.h"

#include <cuda_bf16.h>

#include <algorithm>

#include "worker/device/cuda/kernels/launch.h"

namespace quire::cuda {
namespace {

constexpr uint32_t kTileOutputs = 16;  // of a compute warp
constexpr uint32_t kBoxWidth = 64;     // elements along K: 128 bytes, the swizzle's width
constexpr uint32_t kTileBytes = kTileOutputs * kBoxWidth * 2;
constexpr uint32_t kInputBytes = 8 * kBoxWidth * 2;  // 8 rows of x in a box
constexpr uint32_t kMaxTiles = 16;
constexpr uint32_t kMaxStages = 8;
// Bytes that a thread block keeps under way. Two blocks fit a multiprocessor, so that the next
// kernel's first weights are under way while this one ends.
constexpr uint32_t kStageBytes = 34 * 1024;
constexpr uint32_t kSharedBytes = 104 * 1024;

struct Params {
  void* y;
  const __nv_bfloat16* bias;
  uint32_t m, n, k;
  uint32_t num_groups;  // of `tiles` tiles
  SkinnyShape shape;
};

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
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
__device__ __forceinline__ void CopyBox(uint32_t to, const CUtensorMap* map, uint32_t column,
                                        uint32_t row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(row)
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

// The operands of four steps: 16 outputs by 64 of K, and the inputs of 8 · kHalves rows.
template <int kHalves>
struct Operands {
  uint32_t weights[4][4];
  uint32_t inputs[kHalves][2][4];

  __device__ __forceinline__ void Load(uint32_t box, uint32_t input_box, int warp, int lane) {
    const uint32_t row = warp * kTileOutputs + lane % 16;
    const uint32_t half = lane / 16;
    const uint32_t input_row = lane % 8;
    const uint32_t quarter = lane / 8;
#pragma unroll
    for (uint32_t step = 0; step < 4; ++step) {
      LoadMatrices(weights[step], box + row * 128 + (((step * 2 + half) ^ (row & 7)) << 4));
    }
#pragma unroll
    for (uint32_t h = 0; h < kHalves; ++h) {
#pragma unroll
      for (uint32_t pair = 0; pair < 2; ++pair) {
        LoadMatrices(inputs[h][pair], input_box + h * kInputBytes + input_row * 128 +
                                          (((pair * 4 + quarter) ^ input_row) << 4));
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

// A ring of stages in shared memory: what the copying warp and the compute warps agree on.
template <int kHalves>
struct Ring {
  uint32_t data;     // shared address, aligned to 1,024
  uint32_t filled;   // barriers, one a stage
  uint32_t emptied;  // likewise
  uint32_t tiles, boxes, stages;

  __device__ uint32_t weight_bytes() const { return tiles * kTileBytes; }
  __device__ uint32_t box_bytes() const { return weight_bytes() + kHalves * kInputBytes; }
  __device__ uint32_t box(uint32_t stage, uint32_t index) const {
    return data + (stage * boxes + index) * box_bytes();
  }
};

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

template <int kHalves>
__device__ __forceinline__ void CopyAll(const Ring<kHalves>& ring, const CUtensorMap* weights,
                                        const CUtensorMap* inputs, const Params& p) {
  const uint32_t num_boxes = (p.k + kBoxWidth - 1) / kBoxWidth;
  const uint32_t num_stages = (num_boxes + ring.boxes - 1) / ring.boxes;
  // Weights depend on no other kernel; the inputs are the work of the one before.
  const auto copy_weights = [&](uint32_t stage, uint32_t group, uint32_t first, uint32_t count) {
    const uint32_t barrier = ring.filled + stage * 8;
    ExpectBytes(barrier, count * ring.box_bytes());
    for (uint32_t i = 0; i < count; ++i) {
      CopyBox(ring.box(stage, i), weights, (first + i) * kBoxWidth,
              group * ring.tiles * kTileOutputs, barrier);
    }
  };
  const auto copy_inputs = [&](uint32_t stage, uint32_t first, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) {
      CopyBox(ring.box(stage, i) + ring.weight_bytes(), inputs, (first + i) * kBoxWidth, 0,
              ring.filled + stage * 8);
    }
  };
  const uint32_t early = min(ring.stages, num_stages);
  for (uint32_t s = 0; s < early; ++s) {
    const uint32_t first = s * ring.boxes;
    copy_weights(s, blockIdx.x, first, min(ring.boxes, num_boxes - first));
  }
  WaitForPrimary();
  RingPosition at;
  for (uint32_t group = blockIdx.x; group < p.num_groups; group += gridDim.x) {
    for (uint32_t s = 0; s < num_stages; ++s) {
      const uint32_t first = s * ring.boxes;
      const uint32_t count = min(ring.boxes, num_boxes - first);
      if (group != blockIdx.x || s >= early) {
        // The stage's first use finds it empty: the parity before the barrier's first phase.
        Wait(ring.emptied + at.stage * 8, at.parity ^ 1);
        copy_weights(at.stage, group, first, count);
      }
      copy_inputs(at.stage, first, count);
      at.Advance(ring.stages);
    }
  }
}

template <int kHalves, bool kFp32>
__device__ __forceinline__ void Store(const Params& p, uint32_t first_output, int lane,
                                      const float (&sums)[kHalves][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t output = first_output + lane / 4 + half * 8;
    if (output >= p.n) continue;
    const float bias = p.bias != nullptr ? __bfloat162float(p.bias[output]) : 0.0f;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t row = h * 8 + lane % 4 * 2 + i;
        if (row >= p.m) continue;
        float sum = sums[h][half * 2 + i];
        if (p.bias != nullptr) sum = __fadd_rn(sum, bias);
        const size_t at = size_t{row} * p.n + output;
        if constexpr (kFp32) {
          static_cast<float*>(p.y)[at] = sum;
        } else {
          static_cast<__nv_bfloat16*>(p.y)[at] = __float2bfloat16_rn(sum);
        }
      }
    }
  }
}

template <int kHalves, bool kFp32>
__global__ void __launch_bounds__((kMaxTiles + 1) * 32)
    SkinnyKernel(const __grid_constant__ CUtensorMap weights,
                 const __grid_constant__ CUtensorMap inputs, const Params p) {
  extern __shared__ uint8_t shared[];
  __shared__ alignas(8) uint64_t barriers[2 * kMaxStages];
  Ring<kHalves> ring;
  ring.data = (SharedAddress(shared) + 1023) & ~1023u;
  ring.filled = SharedAddress(barriers);
  ring.emptied = ring.filled + kMaxStages * 8;
  ring.tiles = p.shape.tiles;
  ring.boxes = p.shape.boxes;
  ring.stages = p.shape.stages;
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
    if (lane == 0) CopyAll<kHalves>(ring, &weights, &inputs, p);
    return;
  }
  const uint32_t num_boxes = (p.k + kBoxWidth - 1) / kBoxWidth;
  RingPosition at;
  for (uint32_t group = blockIdx.x; group < p.num_groups; group += gridDim.x) {
    float sums[kHalves][4] = {};
    Operands<kHalves> operands[2];  // one is loaded while the other is multiplied
    uint32_t in_stage = 0;
    const auto load = [&](Operands<kHalves>& to) {
      if (in_stage == 0) Wait(ring.filled + at.stage * 8, at.parity);
      const uint32_t box = ring.box(at.stage, in_stage);
      to.Load(box, box + ring.weight_bytes(), warp, lane);
    };
    // Past the box that was loaded last: its stage may be filled again once it was the last of it.
    const auto release = [&](bool is_last) {
      if (++in_stage < ring.boxes && !is_last) return;
      in_stage = 0;
      __syncwarp();
      if (lane == 0) Arrive(ring.emptied + at.stage * 8);
      at.Advance(ring.stages);
    };
    load(operands[0]);
    release(num_boxes == 1);
    for (uint32_t box = 0; box < num_boxes; box += 2) {
      if (box + 1 < num_boxes) {
        load(operands[1]);
        operands[0].AddTo(sums);
        release(box + 2 == num_boxes);
      } else {
        operands[0].AddTo(sums);
        break;
      }
      if (box + 2 < num_boxes) {
        load(operands[0]);
        operands[1].AddTo(sums);
        release(box + 3 == num_boxes);
      } else {
        operands[1].AddTo(sums);
      }
    }
    Store<kHalves, kFp32>(p, (group * ring.tiles + warp) * kTileOutputs, lane, sums);
  }
}

cudaError_t EncodeMap(const void* data, uint32_t rows, uint32_t k, uint32_t box_rows,
                      CUtensorMap* map) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                     &found);
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint64_t sizes[2] = {k, rows};
  const cuuint64_t strides[1] = {cuuint64_t{k} * 2};
  const cuuint32_t box[2] = {kBoxWidth, box_rows};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult result =
      encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes, strides, box,
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// One group a multiprocessor where that is at most kMaxTiles tiles, else as many rounds of groups
// as waste least.
uint32_t ChooseTiles(uint32_t n, uint32_t num_sms) {
  const uint32_t total = (n + kTileOutputs - 1) / kTileOutputs;
  uint32_t best = kMaxTiles;
  uint64_t least = ~uint64_t{0};
  for (uint32_t tiles = kMaxTiles; tiles > 0; --tiles) {
    const uint32_t groups = (total + tiles - 1) / tiles;
    const uint64_t cost = uint64_t{(groups + num_sms - 1) / num_sms} * tiles;
    if (cost < least) {
      least = cost;
      best = tiles;
    }
  }
  return best;
}

SkinnyShape ChooseShape(uint32_t n, uint32_t k, uint32_t halves, uint32_t num_sms) {
  SkinnyShape shape;
  shape.tiles = ChooseTiles(n, num_sms);
  const uint32_t box_bytes = shape.tiles * kTileBytes + halves * kInputBytes;
  const uint32_t num_boxes = (k + kBoxWidth - 1) / kBoxWidth;
  shape.boxes = std::clamp(kStageBytes / box_bytes, 1u, std::max(1u, num_boxes / 2));
  shape.stages = std::clamp(kSharedBytes / (shape.boxes * box_bytes), 2u, kMaxStages);
  return shape;
}

uint32_t SharedBytes(const SkinnyShape& shape, uint32_t halves) {
  return shape.stages * shape.boxes * (shape.tiles * kTileBytes + halves * kInputBytes) + 1024;
}

template <int kHalves, bool kFp32>
cudaError_t Run(const SkinnyGemm& gemm, const Params& params, cudaStream_t stream) {
  static const cudaError_t allowed = cudaFuncSetAttribute(
      SkinnyKernel<kHalves, kFp32>, cudaFuncAttributeMaxDynamicSharedMemorySize,
      static_cast<int>(kSharedBytes + kStageBytes + 1024));
  if (allowed != cudaSuccess) return allowed;
  int device = 0;
  int num_sms = 0;
  if (cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device);
      error != cudaSuccess) {
    return error;
  }
  const uint32_t grid = std::min(params.num_groups, static_cast<uint32_t>(num_sms));
  return LaunchKernel(SkinnyKernel<kHalves, kFp32>, dim3(grid), dim3((params.shape.tiles + 1) * 32),
                      SharedBytes(params.shape, kHalves), stream, gemm.weights,
                      gemm.inputs[kHalves - 1], params);
}

}  // namespace

cudaError_t MakeSkinnyGemm(const void* weights, const void* inputs, uint32_t n, uint32_t k,
                           SkinnyGemm* gemm) {
  int device = 0;
  int num_sms = 0;
  if (cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device);
      error != cudaSuccess) {
    return error;
  }
  gemm->n = n;
  gemm->k = k;
  for (uint32_t halves = 1; halves <= 2; ++halves) {
    gemm->shape[halves - 1] = ChooseShape(n, k, halves, static_cast<uint32_t>(num_sms));
    if (cudaError_t error =
            EncodeMap(inputs, kSkinnyMaxRows, k, halves * 8, &gemm->inputs[halves - 1]);
        error != cudaSuccess) {
      return error;
    }
  }
  return EncodeMap(weights, n, k, gemm->shape[0].tiles * kTileOutputs, &gemm->weights);
}

cudaError_t RunSkinnyGemm(const SkinnyGemm& gemm, uint32_t m, const void* bias, void* y,
                          bool fp32_output, cudaStream_t stream) {
  if (m == 0 || m > kSkinnyMaxRows) return cudaErrorInvalidValue;
  Params params;
  params.y = y;
  params.bias = static_cast<const __nv_bfloat16*>(bias);
  params.m = m;
  params.n = gemm.n;
  params.k = gemm.k;
  params.shape = gemm.shape[m > 8 ? 1 : 0];
  const uint32_t total = (gemm.n + kTileOutputs - 1) / kTileOutputs;
  params.num_groups = (total + params.shape.tiles - 1) / params.shape.tiles;
  if (m > 8) {
    return fp32_output ? Run<2, true>(gemm, params, stream) : Run<2, false>(gemm, params, stream);
  }
  return fp32_output ? Run<1, true>(gemm, params, stream) : Run<1, false>(gemm, params, stream);
}

}  // namespace quire::cuda
