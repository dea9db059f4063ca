// AVX-512 without a bf16 dot product: two FMAs take its place.

#include "worker/device/cpu/gemm/micro_kernels_avx512_lanes.h"

namespace quire::gemm_internal {
namespace {

// A pair of bf16 in each 32-bit lane, widened: the one at the lower address and the one after it.
struct WidenedPair {
  __m512 low;
  __m512 high;
};

struct Avx512WidenedBf16 : Avx512Lanes {
  using XBroadcast = WidenedPair;
  using WVector = WidenedPair;
  static constexpr int kMaxRows = 12;
  static constexpr int kMaxAccumulators = 24;
  static constexpr int kStepBytesX = 4;
  static constexpr int kVectorBytesW = 64;
  static QUIRE_INLINE WidenedPair Widen(__m512i pairs) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
            _mm512_castsi512_ps(
                _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))))};
  }
  static QUIRE_INLINE XBroadcast LoadX(const char* x) {
    return Widen(_mm512_set1_epi32(LoadInt32(x)));
  }
  static QUIRE_INLINE XBroadcast LoadHalfX(const char* x) {
    return Widen(_mm512_set1_epi32(LoadUint16(x)));
  }
  static QUIRE_INLINE WVector LoadW(const char* w) { return Widen(_mm512_load_si512(w)); }
  static QUIRE_INLINE Vec MulAdd(Vec acc, const XBroadcast& x, const WVector& w) {
    return _mm512_fmadd_ps(x.low, w.low, _mm512_fmadd_ps(x.high, w.high, acc));
  }
};

}  // namespace

constinit const MicroKernels kAvx512Kernels = {MakeTileTable<Avx512WidenedBf16>(),
                                               MakeTileTable<Avx512Fp32>(),
                                               &StoreTile<Avx512Lanes, uint16_t>,
                                               &StoreTile<Avx512Lanes, float>,
                                               nullptr,
                                               nullptr};

}  // namespace quire::gemm_internal
