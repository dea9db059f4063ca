// AVX2 and FMA: 16 registers of eight lanes, so a panel is four vectors and a tile two
// or three rows.

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

// Many rows: widening a pair costs more registers than there are, so it is done once for all tiles.
void WidenPanel(const void* panel, int64_t steps, float* out) {
  const char* w = static_cast<const char*>(panel);
  const int64_t ahead = steps * kStepBytes;
  for (int64_t step = 0; step < steps; ++step, w += kStepBytes, out += 2 * kPanelWidth) {
    __builtin_prefetch(w + ahead);
    __builtin_prefetch(w + ahead + 64);
#pragma GCC unroll 4
    for (int v = 0; v < kPanelWidth / 8; ++v) {
      const WidenedPair pair = Avx2WidenedBf16::LoadW(w + 32 * v);
      _mm256_store_ps(out + 8 * v, pair.high);
      _mm256_store_ps(out + kPanelWidth + 8 * v, pair.low);
    }
  }
}

void WidenRow(const void* x, int64_t count, float* out) {
  const uint16_t* from = static_cast<const uint16_t*>(x);
  for (; count > 0; count -= 16, from += 16, out += 16) {
    alignas(32) uint16_t last[16] = {};
    const uint16_t* elements = from;
    if (count < 16) {
      __builtin_memcpy(last, from, static_cast<size_t>(count) * sizeof(uint16_t));
      elements = last;
    }
    const WidenedPair pair =
        Avx2WidenedBf16::Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(elements)));
    // Within each half: second, first, second, first.
    const __m256 even = _mm256_unpacklo_ps(pair.high, pair.low);
    const __m256 odd = _mm256_unpackhi_ps(pair.high, pair.low);
    _mm256_storeu_ps(out, _mm256_permute2f128_ps(even, odd, 0x20));
    _mm256_storeu_ps(out + 8, _mm256_permute2f128_ps(even, odd, 0x31));
  }
}

}  // namespace

constinit const MicroKernels kAvx2Kernels = {MakeTileTable<Avx2WidenedBf16>(),
                                             MakeTileTable<Avx2Fp32>(),
                                             &StoreTile<Avx2Lanes, uint16_t>,
                                             &StoreTile<Avx2Lanes, float>,
                                             &WidenPanel,
                                             &WidenRow};

}  // namespace quire::gemm_internal
