// AVX-512 with the bf16 dot product.

#include "worker/device/cpu/gemm/micro_kernels_avx512_lanes.h"

namespace quire::gemm_internal {
namespace {

struct Avx512DotBf16 : Avx512Lanes {
  using XBroadcast = __m512bh;
  using WVector = __m512bh;
  static constexpr int kMaxRows = 14;
  static constexpr int kMaxAccumulators = 28;
  static constexpr int kStepBytesX = 4;
  static constexpr int kVectorBytesW = 64;
  static QUIRE_INLINE XBroadcast LoadX(const char* x) {
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(LoadInt32(x)));
  }
  static QUIRE_INLINE XBroadcast LoadHalfX(const char* x) {
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(LoadUint16(x)));
  }
  static QUIRE_INLINE WVector LoadW(const char* w) {
    return reinterpret_cast<__m512bh>(_mm512_load_si512(w));
  }
  static QUIRE_INLINE Vec MulAdd(Vec acc, XBroadcast x, WVector w) {
    return _mm512_dpbf16_ps(acc, x, w);
  }
};

}  // namespace

constinit const MicroKernels kAvx512Bf16Kernels = {MakeTileTable<Avx512DotBf16>(),
                                                   MakeTileTable<Avx512Fp32>(),
                                                   &StoreTile<Avx512Lanes, uint16_t>,
                                                   &StoreTile<Avx512Lanes, float>,
                                                   nullptr,
                                                   nullptr};

}  // namespace quire::gemm_internal
