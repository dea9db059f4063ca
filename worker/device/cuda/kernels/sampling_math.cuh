#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_SAMPLING_MATH_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_SAMPLING_MATH_CUH_

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>

// exp and log of the sampler's own, the recipes of the CPU's (kernels/simd_inl.h, sampling_inl.h).
// Every operation rounds once, whatever the compiler's flags: none is contracted, flushed or
// approximated. So they give the same bits on the host, where tests look at them.
namespace quire::cuda {

__host__ __device__ inline float Add(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
__host__ __device__ inline float Sub(float a, float b) { return Add(a, -b); }
__host__ __device__ inline float Mul(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
__host__ __device__ inline float Div(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}
__host__ __device__ inline float Fma(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}
__host__ __device__ inline uint32_t Bits(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
#endif
}
__host__ __device__ inline float FromBits(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
#endif
}

inline constexpr float kLn2High = 0x1.62e400p-1f;  // 16 bits of ln 2: n · kLn2High is exact
inline constexpr float kLn2Low = 0x1.7f7d1cp-20f;  // the rest of it

// e^x for x <= 0 to about one unit in the last place; 0 below the smallest normal number.
__host__ __device__ inline float ExpOfNegative(float x) {
  constexpr float kShift = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
  const float shifted = Add(Mul(x, 0x1.715476p+0f), kShift);
  const float n = Sub(shifted, kShift);
  float r = Fma(n, -kLn2High, x);
  r = Fma(n, -kLn2Low, r);
  float p = 1.0f / 5040;
  p = Fma(p, r, 1.0f / 720);
  p = Fma(p, r, 1.0f / 120);
  p = Fma(p, r, 1.0f / 24);
  p = Fma(p, r, 1.0f / 6);
  p = Fma(p, r, 0.5f);
  p = Fma(p, r, 1.0f);
  p = Fma(p, r, 1.0f);
  const uint32_t exponent = Bits(shifted) - Bits(kShift);
  const float scaled = Mul(p, FromBits((exponent + 127u) << 23));
  return x < -87.33654f ? 0.0f : scaled;
}

// log(1 + f) + exponent · ln 2 for f in [√½ − 1, √2 − 1]: with s = f / (2 + f), log(1 + f) is
// 2 atanh(s), whose series to s^9 leaves 4e-9.
__host__ __device__ inline float LogOfParts(float f, float exponent) {
  const float s = Div(f, Add(f, 2.0f));
  const float z = Mul(s, s);
  float p = 2.0f / 9;
  p = Fma(p, z, 2.0f / 7);
  p = Fma(p, z, 2.0f / 5);
  p = Fma(p, z, 2.0f / 3);
  // 2 s = f − s f, so the leading term carries no rounding of s.
  const float tail = Sub(Mul(Mul(p, z), s), Mul(s, f));
  return Fma(exponent, kLn2High, Add(f, Fma(exponent, kLn2Low, tail)));
}

// Natural logarithm. REQUIRES: x is positive, finite and normal.
__host__ __device__ inline float Log(float x) {
  const uint32_t bits = Bits(x);
  const int32_t exponent = static_cast<int32_t>(bits - 0x3F3504F3u) >> 23;  // of x / √½
  const float mantissa = FromBits(bits - (static_cast<uint32_t>(exponent) << 23));
  return LogOfParts(Sub(mantissa, 1.0f), static_cast<float>(exponent));
}

// −log(−log u) for u = ((word >> 8) + 0.5) · 2^−24. u itself has 25 significant bits and an fp32
// number 24, so for u >= ½ the exact 1 − u is used: log u = log(1 − (1 − u)).
__host__ __device__ inline float Gumbel(uint32_t word) {
  constexpr uint32_t kHalf = 1u << 23;
  const uint32_t k = word >> 8;
  float log_u;
  if (k >= kHalf) {
    const float rest = Mul(Add(static_cast<float>(2 * kHalf - 1 - k), 0.5f), 0x1p-24f);
    const bool near_one = rest < 0.29289321f;
    log_u = LogOfParts(near_one ? -rest : Sub(1.0f, Add(rest, rest)), near_one ? 0.0f : -1.0f);
  } else {
    log_u = Log(Mul(Add(static_cast<float>(k), 0.5f), 0x1p-24f));
  }
  return -Log(-log_u);
}

// Gumbel(word) <= −log of what this gives (where it is zero, no bound): −log u is at least 1 − u,
// and this is 1 − u or less.
__host__ __device__ inline float GumbelBound(uint32_t word) {
  return Sub(FromBits(0x3F800000u | (~word >> 9)), 1.0f);
}

// A sum of numbers in [0, 1] as an integer: exact, so that neither the order of its terms nor how
// they are shared among threads matters. 2^19 terms fit.
inline constexpr float kFixedPoint = 0x1p44f;

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_SAMPLING_MATH_CUH_
