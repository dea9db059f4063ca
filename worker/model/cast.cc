#include "worker/model/cast.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace quire {
namespace {

template <DType kDType>
float LoadElement(const std::byte* from, uint64_t index) {
  if constexpr (kDType == DType::kF32) {
    float value;
    std::memcpy(&value, from + index * 4, 4);
    return value;
  } else {
    uint16_t bits;
    std::memcpy(&bits, from + index * 2, 2);
    return kDType == DType::kBF16 ? FloatFromBf16(bits) : FloatFromF16(bits);
  }
}

// In fp32, so that the widest exact value is at hand; what rounds to an infinity is clamped.
template <DType kTo>
float Narrow(float value, uint16_t* bits) {
  if constexpr (kTo == DType::kF32) return value;
  *bits = kTo == DType::kBF16 ? Bf16FromFloat(value) : F16FromFloat(value);
  return kTo == DType::kBF16 ? FloatFromBf16(*bits) : FloatFromF16(*bits);
}

template <DType kFrom, DType kTo>
CastCounts CastLoop(const std::byte* from, void* to, uint64_t count) {
  CastCounts counts;
  for (uint64_t i = 0; i < count; ++i) {
    const float value = LoadElement<kFrom>(from, i);
    if constexpr (kTo == DType::kF32) {
      static_cast<float*>(to)[i] = value;
    } else {
      uint16_t bits = 0;
      const float narrow = Narrow<kTo>(value, &bits);
      if (std::isinf(narrow) && std::isfinite(value)) {
        ++counts.overflowed;
        --bits;  // an infinity's neighbour is the largest finite value of its sign
      }
      counts.flushed += narrow == 0.0f && value != 0.0f;
      static_cast<uint16_t*>(to)[i] = bits;
    }
  }
  return counts;
}

template <DType kFrom>
CastCounts CastFrom(const std::byte* from, void* to, DType to_dtype, uint64_t count) {
  if (to_dtype == kFrom) {
    std::memcpy(to, from, count * SizeOf(kFrom));
    return {};
  }
  switch (to_dtype) {
    case DType::kF32:
      return CastLoop<kFrom, DType::kF32>(from, to, count);
    case DType::kBF16:
      return CastLoop<kFrom, DType::kBF16>(from, to, count);
    case DType::kF16:
      return CastLoop<kFrom, DType::kF16>(from, to, count);
  }
  return {};
}

template <DType kTo>
void CountCast(float value, CastCounts& counts) {
  uint16_t bits = 0;
  const float narrow = Narrow<kTo>(value, &bits);
  counts.overflowed += std::isinf(narrow);
  counts.flushed += narrow == 0.0f && value != 0.0f;
}

template <DType kDType>
void Accumulate(const std::byte* data, uint64_t count, TensorRange& range) {
  // The ends so far, or empty ones: zeros may stand for "no finite value yet".
  bool any = range.min != 0 || range.max != 0 || range.num_zeros != 0;
  float smallest = range.smallest_nonzero_magnitude != 0 ? range.smallest_nonzero_magnitude
                                                         : std::numeric_limits<float>::infinity();
  for (uint64_t i = 0; i < count; ++i) {
    const float value = LoadElement<kDType>(data, i);
    if (!std::isfinite(value)) {
      ++range.num_not_finite;
      continue;
    }
    range.min = any ? std::min(range.min, value) : value;
    range.max = any ? std::max(range.max, value) : value;
    any = true;
    if (value == 0.0f) {
      ++range.num_zeros;
      continue;
    }
    smallest = std::min(smallest, std::fabs(value));
    CountCast<DType::kBF16>(value, range.to_bf16);
    CountCast<DType::kF16>(value, range.to_f16);
  }
  if (std::isfinite(smallest)) range.smallest_nonzero_magnitude = smallest;
}

}  // namespace

float LargestFinite(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return std::numeric_limits<float>::max();
    case DType::kBF16:
      return FloatFromBf16(0x7f7f);
    case DType::kF16:
      return 65504.0f;
  }
  return 0;
}

CastCounts CastElements(const void* from, DType from_dtype, void* to, DType to_dtype,
                        uint64_t count) {
  const auto* bytes = static_cast<const std::byte*>(from);
  switch (from_dtype) {
    case DType::kF32:
      return CastFrom<DType::kF32>(bytes, to, to_dtype, count);
    case DType::kBF16:
      return CastFrom<DType::kBF16>(bytes, to, to_dtype, count);
    case DType::kF16:
      return CastFrom<DType::kF16>(bytes, to, to_dtype, count);
  }
  return {};
}

void AccumulateRange(const void* data, DType dtype, uint64_t count, TensorRange* range) {
  const auto* bytes = static_cast<const std::byte*>(data);
  switch (dtype) {
    case DType::kF32:
      return Accumulate<DType::kF32>(bytes, count, *range);
    case DType::kBF16:
      return Accumulate<DType::kBF16>(bytes, count, *range);
    case DType::kF16:
      return Accumulate<DType::kF16>(bytes, count, *range);
  }
}

}  // namespace quire
