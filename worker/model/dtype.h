#ifndef QUIRE_WORKER_MODEL_DTYPE_H_
#define QUIRE_WORKER_MODEL_DTYPE_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace quire {

// Element types that weights come in and that executors compute in.
enum class DType : uint8_t { kF32, kBF16, kF16 };

constexpr size_t SizeOf(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

// "float32", "bfloat16", "float16": as config.json writes them.
constexpr std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float32";
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
  }
  return "";
}

// The inverse of DTypeName. Empty for any other word.
std::optional<DType> DTypeFromName(std::string_view name);

inline float FloatFromBf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// To nearest, ties to even, as torch rounds. A NaN stays a NaN.
inline uint16_t Bf16FromFloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float FloatFromF16(uint16_t bits);

// To nearest, ties to even; beyond 65,504 an infinity. A NaN stays a NaN.
uint16_t F16FromFloat(float value);

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_DTYPE_H_
