#ifndef QUIRE_WORKER_DEVICE_CPU_GEMM_BF16_H_
#define QUIRE_WORKER_DEVICE_CPU_GEMM_BF16_H_

#include <bit>
#include <cstdint>

namespace quire {

// A bfloat16 value: the upper half of an IEEE binary32. A type of its own, so that it is never
// taken for an integer; arrays of it may be reinterpreted from and to a checkpoint's bytes (little
// endian).
struct Bf16 {
  uint16_t bits;

  friend bool operator==(Bf16,
                         Bf16) = default;  // of the bits: a NaN equals itself, 0 differs from -0
};
static_assert(sizeof(Bf16) == 2 && alignof(Bf16) == 2);

// Exact.
inline float ToFloat(Bf16 value) { return std::bit_cast<float>(uint32_t{value.bits} << 16); }

// Rounds to nearest, ties to even; what lies beyond the largest bf16 becomes infinite. A NaN stays
// a NaN with its sign and upper payload bits, made quiet. Integer arithmetic alone, so denormals
// pass through whatever the thread's floating-point mode.
inline Bf16 ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return Bf16{static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return Bf16{static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_GEMM_BF16_H_
