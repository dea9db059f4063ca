#ifndef QUIRE_WORKER_DEVICE_CPU_GEMM_HARD_VALUES_H_
#define QUIRE_WORKER_DEVICE_CPU_GEMM_HARD_VALUES_H_

#include <bit>
#include <cstdint>
#include <limits>

#include "worker/device/cpu/gemm/bf16.h"

// Operands for the start-up self-tests, which compare an instruction-set path with the portable
// one.
namespace quire {

// A float of a fixed sequence that visits what rounding can differ by: exponents far apart and
// close, exact cancellations, denormals, now and then an infinity or the largest value.
inline float HardValue(uint64_t index) {
  uint64_t mixed = (index + 1) * 0x9E3779B97F4A7C15u;  // splitmix64
  mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9u;
  mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBu;
  mixed ^= mixed >> 31;
  const uint32_t sign_and_digits = static_cast<uint32_t>(mixed) & 0x807FFFFFu;
  const uint32_t choice = static_cast<uint32_t>(mixed >> 32) % 1024;
  const uint32_t spread = static_cast<uint32_t>(mixed >> 48);
  uint32_t exponent = 127 - 6 + spread % 12;
  if (choice < 8) exponent = 0;                                 // denormal
  if (choice >= 8 && choice < 24) exponent = 60 + spread % 12;  // products near the smallest normal
  if (choice == 24) return std::bit_cast<float>((sign_and_digits & 0x80000000u) | 0x7F7F0000u);
  if (choice == 25) return std::numeric_limits<float>::infinity();
  return std::bit_cast<float>(sign_and_digits | exponent << 23);
}

template <typename T>
T HardElement(uint64_t index) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return HardValue(index);
  } else {
    return ToBf16(HardValue(index));
  }
}

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_GEMM_HARD_VALUES_H_
