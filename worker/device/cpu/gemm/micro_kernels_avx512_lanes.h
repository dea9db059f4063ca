#ifndef QUIRE_WORKER_DEVICE_CPU_GEMM_MICRO_KERNELS_AVX512_LANES_H_
#define QUIRE_WORKER_DEVICE_CPU_GEMM_MICRO_KERNELS_AVX512_LANES_H_

// What the two AVX-512 paths share. Included by their source files only (see micro_kernels.h).

#include <immintrin.h>

#include "worker/device/cpu/gemm/micro_kernels_impl.h"

namespace quire::gemm_internal {
namespace {

struct Avx512Lanes {
  using Vec = __m512;
  static constexpr int kLanes = 16;
  static QUIRE_INLINE Vec Zero() { return _mm512_setzero_ps(); }
  static QUIRE_INLINE Vec Load(const float* from) { return _mm512_loadu_ps(from); }
  static QUIRE_INLINE void Store(float* to, Vec value) { _mm512_storeu_ps(to, value); }
  static QUIRE_INLINE Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }

  // ToBf16 of bf16.h. Not vcvtneps2bf16, which no path but one has.
  static QUIRE_INLINE void StoreBf16(uint16_t* to, Vec value) {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd), 16);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i result = _mm512_mask_or_epi32(rounded, is_nan, high, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(result));
  }
};

struct Avx512Fp32 : Avx512Lanes {
  using XBroadcast = __m512;
  using WVector = __m512;
  static constexpr int kMaxRows = 14;
  static constexpr int kMaxAccumulators = 28;
  static constexpr int kStepBytesX = 4;
  static constexpr int kVectorBytesW = 64;
  static QUIRE_INLINE XBroadcast LoadX(const char* x) {
    return _mm512_set1_ps(*reinterpret_cast<const float*>(x));
  }
  static QUIRE_INLINE XBroadcast LoadHalfX(const char* x) { return LoadX(x); }
  static QUIRE_INLINE WVector LoadW(const char* w) {
    return _mm512_load_ps(reinterpret_cast<const float*>(w));
  }
  static QUIRE_INLINE Vec MulAdd(Vec acc, XBroadcast x, WVector w) {
    return _mm512_fmadd_ps(x, w, acc);
  }
};

QUIRE_INLINE int LoadInt32(const char* from) {
  int value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

QUIRE_INLINE int LoadUint16(const char* from) {
  uint16_t value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

}  // namespace
}  // namespace quire::gemm_internal

#endif  // QUIRE_WORKER_DEVICE_CPU_GEMM_MICRO_KERNELS_AVX512_LANES_H_
