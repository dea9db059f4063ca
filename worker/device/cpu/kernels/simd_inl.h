// Vectors of 16 lanes and the functions that kernels build on, one set a path.
//
// Not an ordinary header: a kernels_*.cc sets QUIRE_SIMD_AVX512,
// QUIRE_SIMD_AVX2 or QUIRE_SIMD_PORTABLE and is compiled for that instruction set; everything here
// and in the other *_inl.h lives in a namespace of the path (QUIRE_SIMD), so no two differently
// compiled functions share a name and the linker can't hand one path's code to another. For the
// same reason kernels use nothing from the standard library that is a function.
//
// Every operation gives the same bits on every path. A vector has 16 lanes on all of them, so the
// trees of the sums are the same; multiply-adds are fused where Fma says so and nowhere else.
#ifndef QUIRE_WORKER_DEVICE_CPU_KERNELS_SIMD_INL_H_
#define QUIRE_WORKER_DEVICE_CPU_KERNELS_SIMD_INL_H_

#include <cstddef>
#include <cstdint>

#include "worker/device/cpu/gemm/bf16.h"

#if defined(QUIRE_SIMD_AVX512)
#include <immintrin.h>
#define QUIRE_SIMD simd_avx512
#elif defined(QUIRE_SIMD_AVX2)
#include <immintrin.h>
#define QUIRE_SIMD simd_avx2
#elif defined(QUIRE_SIMD_PORTABLE)
#define QUIRE_SIMD simd_portable
#else
#error "simd_inl.h is included by the kernels_*.cc alone"
#endif

namespace quire::QUIRE_SIMD {

struct IVec;
inline IVec Bf16Bits(IVec bits);

#if defined(QUIRE_SIMD_AVX512)
#include "worker/device/cpu/kernels/simd_avx512_inl.h"
#elif defined(QUIRE_SIMD_AVX2)
#include "worker/device/cpu/kernels/simd_avx2_inl.h"
#else
#include "worker/device/cpu/kernels/simd_portable_inl.h"
#endif

// Rounds fp32 bit patterns to bf16 (nearest, ties to even; a NaN stays one), in the lower half.
inline IVec Bf16Bits(IVec bits) {
  const IVec lsb = IAnd(ShiftRight<16>(bits), ISet1(1));
  const IVec rounded = ShiftRight<16>(IAdd(IAdd(bits, ISet1(0x7FFF)), lsb));
  const IVec nan = IOr(ShiftRight<16>(bits), ISet1(0x40));
  const Mask is_nan = IGreaterSigned(IAnd(bits, ISet1(0x7FFFFFFF)), ISet1(0x7F800000));
  return ISelect(is_nan, nan, rounded);
}

// The value as the compute dtype holds it: rounded to bf16, or as it is.
template <typename T>
inline Vec RoundTo(Vec x);
template <>
inline Vec RoundTo<float>(Vec x) {
  return x;
}
template <>
inline Vec RoundTo<Bf16>(Vec x) {
  return AsFloat(ShiftLeft<16>(Bf16Bits(AsInt(x))));
}

inline int Count(Mask m) { return __builtin_popcount(Bits(m)); }
inline bool Any(Mask m) { return Bits(m) != 0; }

// Lane i with lane i + 8, then + 4, + 2, + 1.
inline float ReduceAdd(Vec x) {
  float lanes[16];
  Store(lanes, x);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i] + lanes[i + width];
  }
  return lanes[0];
}
// REQUIRES: no lane is a NaN, or the caller does not mind which operand wins.
inline float ReduceMax(Vec x) {
  float lanes[16];
  Store(lanes, x);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
    }
  }
  return lanes[0];
}
inline float FirstLane(Vec x) {
  float lanes[16];
  Store(lanes, x);
  return lanes[0];
}

constexpr float kLn2High = 0x1.62e400p-1f;  // 16 bits of ln 2: n · kLn2High is exact for |n| < 256
constexpr float kLn2Low = 0x1.7f7d1cp-20f;  // the rest of it

// e^x to about one unit in the last place; 0 below the smallest normal number. x = n ln 2 + r with
// |r| <= ln 2 / 2; the Taylor series of e^r to r^7 / 7! leaves 6e-9.
inline Vec Exp(Vec x) {
  const Vec shift = Set1(0x1.8p23f);  // adding it rounds to an integer, in the low bits
  const Vec shifted = Add(Mul(x, Set1(0x1.715476p+0f)), shift);
  const Vec n = Sub(shifted, shift);
  Vec r = Fma(n, Set1(-kLn2High), x);
  r = Fma(n, Set1(-kLn2Low), r);
  Vec p = Set1(1.0f / 5040);
  p = Fma(p, r, Set1(1.0f / 720));
  p = Fma(p, r, Set1(1.0f / 120));
  p = Fma(p, r, Set1(1.0f / 24));
  p = Fma(p, r, Set1(1.0f / 6));
  p = Fma(p, r, Set1(0.5f));
  p = Fma(p, r, Set1(1.0f));
  p = Fma(p, r, Set1(1.0f));
  // 2^n in two factors, since n reaches 128.
  const IVec exponent = ISub(AsInt(shifted), AsInt(shift));
  const IVec half = ShiftRightSigned<1>(exponent);
  const IVec bias = ISet1(127);
  p = Mul(p, AsFloat(ShiftLeft<23>(IAdd(half, bias))));
  p = Mul(p, AsFloat(ShiftLeft<23>(IAdd(ISub(exponent, half), bias))));
  p = Select(Greater(Set1(-87.33654f), x), Set1(0.0f), p);
  return Select(Greater(x, Set1(88.72283f)), Set1(__builtin_inff()), p);
}

// log(1 + f) + exponent · ln 2 for f in [√½ − 1, √2 − 1]: with s = f / (2 + f), log(1 + f) is
// 2 atanh(s), whose series to s^9 leaves 4e-9.
inline Vec LogOfParts(Vec f, Vec exponent) {
  const Vec s = Div(f, Add(f, Set1(2.0f)));
  const Vec z = Mul(s, s);
  Vec p = Set1(2.0f / 9);
  p = Fma(p, z, Set1(2.0f / 7));
  p = Fma(p, z, Set1(2.0f / 5));
  p = Fma(p, z, Set1(2.0f / 3));
  // 2 s = f − s f, so the leading term carries no rounding of s.
  const Vec tail = Sub(Mul(Mul(p, z), s), Mul(s, f));
  return Fma(exponent, Set1(kLn2High), Add(f, Fma(exponent, Set1(kLn2Low), tail)));
}

// Natural logarithm. REQUIRES: x is positive, finite and normal.
inline Vec Log(Vec x) {
  const IVec sqrt_half = ISet1(0x3F3504F3);
  const IVec offset = ISub(AsInt(x), sqrt_half);
  const IVec exponent = ShiftRightSigned<23>(offset);
  const IVec mantissa = ISub(AsInt(x), ShiftLeft<23>(exponent));
  return LogOfParts(Sub(AsFloat(mantissa), Set1(1.0f)), ToFloatSigned(exponent));
}

}  // namespace quire::QUIRE_SIMD

#endif  // QUIRE_WORKER_DEVICE_CPU_KERNELS_SIMD_INL_H_
