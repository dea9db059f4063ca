// Any x86-64: the definition of the recipe. FMAs are emulated in double precision, two lanes at a
// time in SSE2, rather than taken from libm, whose own emulation is a call and much slower.

#include "worker/device/cpu/gemm/micro_kernels_impl.h"

namespace quire::gemm_internal {
namespace {

typedef float Float4 __attribute__((vector_size(16)));
typedef double Double2 __attribute__((vector_size(16)));
typedef int64_t Int2 __attribute__((vector_size(16)));
typedef float Float2 __attribute__((vector_size(8)));

// a * b + c of fp32 operands, rounded once to a double whose last bit tells that something was lost
// ("round to odd"). Rounding that to fp32 gives the fused result, since a double has more than
// twice the digits and two to spare (Boldo and Melquiond, "Emulation of FMA and correctly rounded
// sums", 2008). Nothing overflows or is denormal in double precision on the way.
QUIRE_INLINE Double2 RoundToOdd(Double2 a, Double2 b, Double2 c) {
  const Double2 product = a * b;  // exact: 48 digits
  const Double2 sum = product + c;
  const Double2 c_part = sum - product;
  const Double2 lost = (product - (sum - c_part)) + (c - c_part);  // exact (Knuth's two-sum)
  // Not exact, and the last bit even: step to the neighbour on the side of what was lost. With an
  // infinity or NaN, `lost` is NaN and no comparison holds. Comparisons give -1 for true.
  const Int2 up = lost > 0;
  const Int2 down = lost < 0;
  const Int2 negative = sum < 0;
  const Int2 bits = reinterpret_cast<Int2>(sum);
  const Int2 even = (bits & 1) - 1;
  const Int2 away_from_zero = (up & ~negative) | (down & negative);
  const Int2 towards_zero = (up & negative) | (down & ~negative);
  return reinterpret_cast<Double2>(bits - (away_from_zero & even) + (towards_zero & even));
}

QUIRE_INLINE Float4 FusedMulAdd(Float4 a, Float4 b, Float4 c) {
  Float2 half[2];
  for (int i = 0; i < 2; ++i) {
    const Double2 a2 = {a[2 * i], a[2 * i + 1]};
    const Double2 b2 = {b[2 * i], b[2 * i + 1]};
    const Double2 c2 = {c[2 * i], c[2 * i + 1]};
    half[i] = __builtin_convertvector(RoundToOdd(a2, b2, c2), Float2);
  }
  return Float4{half[0][0], half[0][1], half[1][0], half[1][1]};
}

struct PortableLanes {
  using Vec = Float4;
  static constexpr int kLanes = 4;
  static QUIRE_INLINE Vec Zero() { return Vec{}; }
  static QUIRE_INLINE Vec Load(const float* from) {
    Vec value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
  }
  static QUIRE_INLINE void Store(float* to, Vec value) {
    __builtin_memcpy(to, &value, sizeof(value));
  }
  static QUIRE_INLINE Vec Add(Vec a, Vec b) { return a + b; }

  // ToBf16 of bf16.h, which is not included here for the reason that micro_kernels.h gives.
  static QUIRE_INLINE void StoreBf16(uint16_t* to, Vec value) {
    for (int i = 0; i < kLanes; ++i) {
      uint32_t bits;
      __builtin_memcpy(&bits, reinterpret_cast<const char*>(&value) + 4 * i, sizeof(bits));
      const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
      to[i] = is_nan ? bits >> 16 | 0x40u : (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    }
  }
};

struct PortableFp32 : PortableLanes {
  using XBroadcast = float;
  using WVector = Float4;
  static constexpr int kMaxRows = 1;
  static constexpr int kMaxAccumulators = 8;
  static constexpr int kStepBytesX = 4;
  static constexpr int kVectorBytesW = 16;
  static QUIRE_INLINE XBroadcast LoadX(const char* x) {
    float value;
    __builtin_memcpy(&value, x, sizeof(value));
    return value;
  }
  static QUIRE_INLINE XBroadcast LoadHalfX(const char* x) { return LoadX(x); }
  static QUIRE_INLINE WVector LoadW(const char* w) {
    return Load(reinterpret_cast<const float*>(w));
  }
  static QUIRE_INLINE Vec MulAdd(Vec acc, XBroadcast x, WVector w) {
    return FusedMulAdd(Vec{x, x, x, x}, w, acc);
  }
};

struct PortableBf16 : PortableLanes {
  struct WidenedPair {
    float low;
    float high;
  };
  struct WidenedPairs {
    Float4 low;
    Float4 high;
  };
  using XBroadcast = WidenedPair;
  using WVector = WidenedPairs;
  static constexpr int kMaxRows = 1;
  static constexpr int kMaxAccumulators = 8;
  static constexpr int kStepBytesX = 4;
  static constexpr int kVectorBytesW = 16;
  static QUIRE_INLINE float Widen(const char* bf16) {
    uint16_t half;
    __builtin_memcpy(&half, bf16, sizeof(half));
    const uint32_t bits = uint32_t{half} << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
  }
  static QUIRE_INLINE XBroadcast LoadX(const char* x) { return {Widen(x), Widen(x + 2)}; }
  static QUIRE_INLINE XBroadcast LoadHalfX(const char* x) { return {Widen(x), 0.0f}; }
  static QUIRE_INLINE WVector LoadW(const char* w) {
    return {Float4{Widen(w), Widen(w + 4), Widen(w + 8), Widen(w + 12)},
            Float4{Widen(w + 2), Widen(w + 6), Widen(w + 10), Widen(w + 14)}};
  }
  static QUIRE_INLINE Vec MulAdd(Vec acc, const XBroadcast& x, const WVector& w) {
    const Vec high = {x.high, x.high, x.high, x.high};
    const Vec low = {x.low, x.low, x.low, x.low};
    return FusedMulAdd(low, w.low, FusedMulAdd(high, w.high, acc));
  }
};

}  // namespace

constinit const MicroKernels kPortableKernels = {MakeTileTable<PortableBf16>(),
                                                 MakeTileTable<PortableFp32>(),
                                                 &StoreTile<PortableLanes, uint16_t>,
                                                 &StoreTile<PortableLanes, float>,
                                                 nullptr,
                                                 nullptr};

}  // namespace quire::gemm_internal
