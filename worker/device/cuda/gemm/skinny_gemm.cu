#include "worker/device/cuda/gemm/skinny_gemm.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <atomic>

#include "worker/device/cuda/gemm/skinny_chain_inl.cuh"
#include "worker/device/cuda/gemm/skinny_outputs_inl.cuh"
#include "worker/device/cuda/kernels/launch.h"

namespace quire::cuda {
namespace {

using namespace skinny;

constexpr uint32_t kStageBytes = 40 * 1024;
// Bytes that a thread block keeps under way. The small ring leaves room for another thread block on
// the multiprocessor, so that the next kernel's first weights are under way while this one ends;
// the large one reaches further ahead, which pays where a multiprocessor has much to read.
constexpr uint32_t kSmallRing = 104 * 1024;
constexpr uint32_t kLargeRing = 190 * 1024;
constexpr uint64_t kLargeShare = 250 * 1000;  // bytes of weights a multiprocessor

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

// Lets the kernel have so much shared memory on the current device, of which the driver is asked
// once for each device: `allowed` remembers them.
cudaError_t AllowSharedBytes(const void* kernel, uint32_t bytes, std::atomic<uint64_t>* allowed) {
  int device = 0;
  if (cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (device >= 64) return cudaErrorInvalidDevice;
  const uint64_t bit = uint64_t{1} << device;
  if ((allowed->load(std::memory_order_relaxed) & bit) != 0) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error == cudaSuccess) allowed->fetch_or(bit, std::memory_order_relaxed);
  return error;
}

// Into the arrays of SkinnyGemm.
constexpr uint32_t IndexOf(uint32_t halves) { return halves == 4 ? 2 : halves - 1; }

template <int kHalves, int kBoxes, bool kFewTiles, Epilogue kEpilogue>
cudaError_t Launch(const SkinnyGemm& gemm, const Params& params, cudaStream_t stream) {
  constexpr auto kKernel = SkinnyKernel<kHalves, kBoxes, kFewTiles, kEpilogue>;
  static std::atomic<uint64_t> allowed = 0;  // a bit a device
  if (cudaError_t error = AllowSharedBytes(reinterpret_cast<const void*>(kKernel),
                                           kLargeRing + kStageBytes / 2, &allowed);
      error != cudaSuccess) {
    return error;
  }
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
