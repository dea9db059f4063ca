#ifndef QUIRE_TESTS_WORKER_DEVICE_CPU_EMULATED_EMULATED_AVX512_H_
#define QUIRE_TESTS_WORKER_DEVICE_CPU_EMULATED_EMULATED_AVX512_H_

// The AVX-512 intrinsics that our kernels use, lane by lane as Intel's intrinsics guide defines
// them, so that processors without AVX-512 run the AVX-512 paths too. Included ahead of those
// paths' source files by the compiler's command line; needs AVX2 and FMA. An intrinsic that is
// missing here fails the build, since no AVX-512 is enabled there.
//
// vdpbf16ps is emulated as two fused multiply-adds, high half first: what processors were measured
// to do while denormals are flushed (docs/numerics.md).

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace quire_emulated {

// The types of the registers are the compiler's own, which need no AVX-512. These name their lanes.
using Floats = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
using Uints = uint32_t __attribute__((vector_size(64)));
using Ulongs = uint64_t __attribute__((vector_size(64)));

#define QUIRE_EMULATED [[gnu::always_inline]] static inline

template <typename To, typename From>
QUIRE_EMULATED To Cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
template <typename Register, typename Lanes, typename Function>
QUIRE_EMULATED Register Make(Function lane) {
  constexpr int kLanes = sizeof(Lanes) / sizeof(Lanes{}[0]);
  Lanes lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = lane(i);
  return Cast<Register>(lanes);
}
template <typename Function>
QUIRE_EMULATED __mmask16 MakeMask(Function lane) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= static_cast<uint32_t>(lane(i) ? 1 : 0) << i;
  return static_cast<__mmask16>(mask);
}
QUIRE_EMULATED bool Has(__mmask16 mask, int lane) { return (mask >> lane & 1) != 0; }
template <typename Register>
QUIRE_EMULATED Register LoadAll(const void* from) {
  Register to;
  std::memcpy(&to, from, sizeof(to));
  return to;
}
template <typename Register>
QUIRE_EMULATED void StoreAll(void* to, Register from) {
  std::memcpy(to, &from, sizeof(from));
}

// --- Loads, stores, constants ---
QUIRE_EMULATED __m512 setzero_ps() { return __m512{}; }
QUIRE_EMULATED __m512 set1_ps(float x) {
  return Make<__m512, Floats>([&](int) { return x; });
}
QUIRE_EMULATED __m512i set1_epi32(int x) {
  return Make<__m512i, Ints>([&](int) { return x; });
}
QUIRE_EMULATED __m512 maskz_loadu_ps(__mmask16 mask, const float* from) {
  return Make<__m512, Floats>([&](int i) { return Has(mask, i) ? from[i] : 0.0f; });
}
QUIRE_EMULATED void mask_storeu_ps(float* to, __mmask16 mask, __m512 a) {
  for (int i = 0; i < 16; ++i) {
    if (Has(mask, i)) to[i] = a[i];
  }
}
QUIRE_EMULATED __m256i maskz_loadu_epi16(__mmask16 mask, const void* from) {
  uint16_t lanes[16] = {};
  for (int i = 0; i < 16; ++i) {
    if (Has(mask, i)) std::memcpy(&lanes[i], static_cast<const char*>(from) + 2 * i, 2);
  }
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes));
}
QUIRE_EMULATED void mask_storeu_epi16(void* to, __mmask16 mask, __m256i a) {
  uint16_t lanes[16];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), a);
  for (int i = 0; i < 16; ++i) {
    if (Has(mask, i)) std::memcpy(static_cast<char*>(to) + 2 * i, &lanes[i], 2);
  }
}

// --- Floats ---
QUIRE_EMULATED __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return Make<__m512, Floats>([&](int i) { return __builtin_fmaf(a[i], b[i], c[i]); });
}
// The second operand where neither is greater or one is not a number.
QUIRE_EMULATED __m512 max_ps(__m512 a, __m512 b) {
  return Make<__m512, Floats>([&](int i) { return a[i] > b[i] ? a[i] : b[i]; });
}
QUIRE_EMULATED __m512 sqrt_ps(__m512 a) {
  return Make<__m512, Floats>(
      [&](int i) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(static_cast<float>(a[i])))); });
}
template <int kPredicate>
QUIRE_EMULATED __mmask16 cmp_ps_mask(__m512 a, __m512 b) {
  static_assert(kPredicate == _CMP_UNORD_Q || kPredicate == _CMP_GT_OQ ||
                kPredicate == _CMP_GE_OQ || kPredicate == _CMP_EQ_OQ);
  return MakeMask([&](int i) {
    if constexpr (kPredicate == _CMP_GT_OQ) return a[i] > b[i];
    if constexpr (kPredicate == _CMP_GE_OQ) return a[i] >= b[i];
    if constexpr (kPredicate == _CMP_EQ_OQ) return a[i] == b[i];
    return __builtin_isunordered(a[i], b[i]) != 0;
  });
}
QUIRE_EMULATED __m512 dpbf16_ps(__m512 acc, __m512bh a, __m512bh b) {
  const Uints x = Cast<Uints>(a), y = Cast<Uints>(b);
  const auto low = [](uint32_t pair) { return Cast<float>(pair << 16); };
  const auto high = [](uint32_t pair) { return Cast<float>(pair & 0xFFFF0000u); };
  return Make<__m512, Floats>([&](int i) {
    return __builtin_fmaf(low(x[i]), low(y[i]), __builtin_fmaf(high(x[i]), high(y[i]), acc[i]));
  });
}

// --- Integers ---
QUIRE_EMULATED __m512i add_epi32(__m512i a, __m512i b) {
  return Cast<__m512i>(Cast<Uints>(a) + Cast<Uints>(b));
}
QUIRE_EMULATED __m512i sub_epi32(__m512i a, __m512i b) {
  return Cast<__m512i>(Cast<Uints>(a) - Cast<Uints>(b));
}
QUIRE_EMULATED __m512i slli_epi32(__m512i a, int bits) {
  return Cast<__m512i>(Cast<Uints>(a) << bits);
}
QUIRE_EMULATED __m512i srli_epi32(__m512i a, int bits) {
  return Cast<__m512i>(Cast<Uints>(a) >> bits);
}
QUIRE_EMULATED __m512i srai_epi32(__m512i a, int bits) {
  return Cast<__m512i>(Cast<Ints>(a) >> bits);
}
QUIRE_EMULATED __m512i slli_epi64(__m512i a, int bits) {
  return Cast<__m512i>(Cast<Ulongs>(a) << bits);
}
QUIRE_EMULATED __m512i srli_epi64(__m512i a, int bits) {
  return Cast<__m512i>(Cast<Ulongs>(a) >> bits);
}
QUIRE_EMULATED __m512i mul_epu32(__m512i a, __m512i b) {
  const Ulongs x = Cast<Ulongs>(a), y = Cast<Ulongs>(b);
  return Cast<__m512i>((x & 0xFFFFFFFFu) * (y & 0xFFFFFFFFu));
}
QUIRE_EMULATED __mmask16 cmpgt_epi32_mask(__m512i a, __m512i b) {
  const Ints x = Cast<Ints>(a), y = Cast<Ints>(b);
  return MakeMask([&](int i) { return x[i] > y[i]; });
}
QUIRE_EMULATED __m512 cvtepi32_ps(__m512i a) {
  const Ints x = Cast<Ints>(a);
  return Make<__m512, Floats>([&](int i) { return static_cast<float>(x[i]); });
}
QUIRE_EMULATED __m512i cvtepu16_epi32(__m256i a) {
  uint16_t lanes[16];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), a);
  return Make<__m512i, Ints>([&](int i) { return lanes[i]; });
}
QUIRE_EMULATED __m256i cvtepi32_epi16(__m512i a) {
  const Uints x = Cast<Uints>(a);
  uint16_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = static_cast<uint16_t>(x[i]);
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes));
}

// --- Lanes chosen and moved ---
QUIRE_EMULATED __m512 mask_blend_ps(__mmask16 mask, __m512 no, __m512 yes) {
  return Make<__m512, Floats>([&](int i) { return Has(mask, i) ? yes[i] : no[i]; });
}
QUIRE_EMULATED __m512i mask_blend_epi32(__mmask16 mask, __m512i no, __m512i yes) {
  const Ints x = Cast<Ints>(no), y = Cast<Ints>(yes);
  return Make<__m512i, Ints>([&](int i) { return Has(mask, i) ? y[i] : x[i]; });
}
QUIRE_EMULATED __m512i mask_or_epi32(__m512i source, __mmask16 mask, __m512i a, __m512i b) {
  return mask_blend_epi32(mask, source, a | b);
}
QUIRE_EMULATED __m512i maskz_compress_epi32(__mmask16 mask, __m512i a) {
  const Ints x = Cast<Ints>(a);
  Ints packed = {};
  int count = 0;
  for (int i = 0; i < 16; ++i) {
    if (Has(mask, i)) packed[count++] = x[i];
  }
  return Cast<__m512i>(packed);
}
QUIRE_EMULATED __m512 maskz_compress_ps(__mmask16 mask, __m512 a) {
  return Cast<__m512>(maskz_compress_epi32(mask, Cast<__m512i>(a)));
}
// Within each 128 bits: the lower or upper half of a and of b, lanes taken in turns.
template <typename Lanes, bool kUpper>
QUIRE_EMULATED __m512i Unpack(__m512i a, __m512i b) {
  constexpr int kGroup = 16 / sizeof(Lanes{}[0]);
  const Lanes x = Cast<Lanes>(a), y = Cast<Lanes>(b);
  return Make<__m512i, Lanes>([&](int i) {
    const int from = i / kGroup * kGroup + (kUpper ? kGroup / 2 : 0) + i % kGroup / 2;
    return i % 2 == 0 ? x[from] : y[from];
  });
}

}  // namespace quire_emulated

// Where nothing is optimized the compiler has some of these as macros of its own.
#undef _mm512_cmp_ps_mask
#undef _mm512_slli_epi32
#undef _mm512_slli_epi64
#undef _mm512_srai_epi32
#undef _mm512_srli_epi32
#undef _mm512_srli_epi64

#define _mm512_setzero_ps ::quire_emulated::setzero_ps
#define _mm512_set1_ps ::quire_emulated::set1_ps
#define _mm512_set1_epi32 ::quire_emulated::set1_epi32
#define _mm512_load_ps ::quire_emulated::LoadAll<__m512>
#define _mm512_loadu_ps ::quire_emulated::LoadAll<__m512>
#define _mm512_load_si512 ::quire_emulated::LoadAll<__m512i>
#define _mm512_loadu_si512 ::quire_emulated::LoadAll<__m512i>
#define _mm512_storeu_ps ::quire_emulated::StoreAll<__m512>
#define _mm512_storeu_si512 ::quire_emulated::StoreAll<__m512i>
#define _mm512_maskz_loadu_ps ::quire_emulated::maskz_loadu_ps
#define _mm512_mask_storeu_ps ::quire_emulated::mask_storeu_ps
#define _mm256_maskz_loadu_epi16 ::quire_emulated::maskz_loadu_epi16
#define _mm256_mask_storeu_epi16 ::quire_emulated::mask_storeu_epi16
#define _mm512_castps_si512 ::quire_emulated::Cast<__m512i, __m512>
#define _mm512_castsi512_ps ::quire_emulated::Cast<__m512, __m512i>
#define _mm512_add_ps(a, b) ((a) + (b))
#define _mm512_sub_ps(a, b) ((a) - (b))
#define _mm512_mul_ps(a, b) ((a) * (b))
#define _mm512_div_ps(a, b) ((a) / (b))
#define _mm512_fmadd_ps ::quire_emulated::fmadd_ps
#define _mm512_max_ps ::quire_emulated::max_ps
#define _mm512_sqrt_ps ::quire_emulated::sqrt_ps
#define _mm512_cmp_ps_mask(a, b, predicate) ::quire_emulated::cmp_ps_mask<predicate>(a, b)
#define _mm512_dpbf16_ps ::quire_emulated::dpbf16_ps
#define _mm512_and_si512(a, b) ((a) & (b))
#define _mm512_or_si512(a, b) ((a) | (b))
#define _mm512_xor_si512(a, b) ((a) ^ (b))
#define _mm512_add_epi32 ::quire_emulated::add_epi32
#define _mm512_sub_epi32 ::quire_emulated::sub_epi32
#define _mm512_slli_epi32 ::quire_emulated::slli_epi32
#define _mm512_srli_epi32 ::quire_emulated::srli_epi32
#define _mm512_srai_epi32 ::quire_emulated::srai_epi32
#define _mm512_slli_epi64 ::quire_emulated::slli_epi64
#define _mm512_srli_epi64 ::quire_emulated::srli_epi64
#define _mm512_mul_epu32 ::quire_emulated::mul_epu32
#define _mm512_cmpgt_epi32_mask ::quire_emulated::cmpgt_epi32_mask
#define _mm512_cvtepi32_ps ::quire_emulated::cvtepi32_ps
#define _mm512_cvtepu16_epi32 ::quire_emulated::cvtepu16_epi32
#define _mm512_cvtepi32_epi16 ::quire_emulated::cvtepi32_epi16
#define _mm512_mask_blend_ps ::quire_emulated::mask_blend_ps
#define _mm512_mask_blend_epi32 ::quire_emulated::mask_blend_epi32
#define _mm512_mask_or_epi32 ::quire_emulated::mask_or_epi32
#define _mm512_maskz_compress_ps ::quire_emulated::maskz_compress_ps
#define _mm512_maskz_compress_epi32 ::quire_emulated::maskz_compress_epi32
#define _mm512_unpacklo_epi32 ::quire_emulated::Unpack<::quire_emulated::Ints, false>
#define _mm512_unpackhi_epi32 ::quire_emulated::Unpack<::quire_emulated::Ints, true>
#define _mm512_unpacklo_epi64 ::quire_emulated::Unpack<::quire_emulated::Ulongs, false>
#define _mm512_unpackhi_epi64 ::quire_emulated::Unpack<::quire_emulated::Ulongs, true>

#endif  // QUIRE_TESTS_WORKER_DEVICE_CPU_EMULATED_EMULATED_AVX512_H_
