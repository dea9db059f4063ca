// AVX2 and FMA: 16 registers of eight lanes, so a panel is four vectors and a tile two rows.

#include <immintrin.h>

#include "worker/device/cpu/gemm/micro_kernels_impl.h"

namespace quire::gemm_internal {
namespace {

struct Avx2Lanes {
  using Vec = __m256;
  static constexpr int kLanes = 8;
  static QUIRE_INLINE Vec Zero() { return _mm256_setzero_ps(); }
  static QUIRE_INLINE Vec Load(const float* from) { return _mm256_loadu_ps(from); }
  static QUIRE_INLINE void Store(float* to, Vec value) { _mm256_storeu_ps(to, value); }
  static QUIRE_INLINE Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }

  // ToBf16 of bf16.h.
  static QUIRE_INLINE void StoreBf16(uint16_t* to, Vec value) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
    const __m256i quiet_nan = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i result = _mm256_blendv_epi8(rounded, quiet_nan, is_nan);
    const __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), packed);
  }
};

struct Avx2Fp32 : Avx2Lanes {
  using XBroadcast = __m256;
  using WVector = __m256;
  static constexpr int kMaxRows = 3;
  static constexpr int kMaxAccumulators = 12;
  static constexpr int kStepBytesX = 4;
  static constexpr int kVectorBytesW = 32;
  static QUIRE_INLINE XBroadcast LoadX(const char* x) {
    return _mm256_broadcast_ss(reinterpret_cast<const float*>(x));
  }
  static QUIRE_INLINE XBroadcast LoadHalfX(const char* x) { return LoadX(x); }
  static QUIRE_INLINE WVector LoadW(const char* w) {
    return _mm256_load_ps(reinterpret_cast<const float*>(w));
  }
  static QUIRE_INLINE Vec MulAdd(Vec acc, XBroadcast x, WVector w) {
    return _mm256_fmadd_ps(x, w, acc);
  }
};

// A pair of bf16 in each 32-bit lane, widened: the one at the lower address and the one after it.
struct WidenedPair {
  __m256 low;
  __m256 high;
};

struct Avx2WidenedBf16 : Avx2Lanes {
  using XBroadcast = WidenedPair;
  using WVector = WidenedPair;
  static constexpr int kMaxRows = 2;
  static constexpr int kMaxAccumulators = 8;
  static constexpr int kStepBytesX = 4;
  static constexpr int kVectorBytesW = 32;
  static QUIRE_INLINE WidenedPair Widen(__m256i pairs) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)),
            _mm256_castsi256_ps(
                _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u))))};
  }
  static QUIRE_INLINE XBroadcast LoadX(const char* x) {
    int pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return Widen(_mm256_set1_epi32(pair));
  }
  static QUIRE_INLINE XBroadcast LoadHalfX(const char* x) {
    uint16_t first;
    __builtin_memcpy(&first, x, sizeof(first));
    return Widen(_mm256_set1_epi32(first));
  }
  static QUIRE_INLINE WVector LoadW(const char* w) {
    return Widen(_mm256_load_si256(reinterpret_cast<const __m256i*>(w)));
  }
  static QUIRE_INLINE Vec MulAdd(Vec acc, const XBroadcast& x, const WVector& w) {
    return _mm256_fmadd_ps(x.low, w.low, _mm256_fmadd_ps(x.high, w.high, acc));
  }
};

}  // namespace

constinit const MicroKernels kAvx2Kernels = {
    MakeTileTable<Avx2WidenedBf16>(), MakeTileTable<Avx2Fp32>(), &StoreTile<Avx2Lanes, uint16_t>,
    &StoreTile<Avx2Lanes, float>};

}  // namespace quire::gemm_internal
