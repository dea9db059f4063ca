#include "worker/device/cpu/gemm/self_test.h"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "scheduler/check.h"
#include "worker/device/cpu/gemm/bf16.h"
#include "worker/device/cpu/gemm/gemm.h"
#include "worker/device/cpu/gemm/packed_weights.h"
#include "worker/device/cpu/gemm/thread_pool.h"

namespace quire {
namespace {

constexpr int64_t kRows = 5;
constexpr int64_t kOutputs = 70;  // two panels and a part of one
constexpr int64_t kLength = 131;  // odd: the last pair is half empty

// A float of a fixed sequence that visits what rounding can differ by: exponents far apart and
// close, exact cancellations, denormals, now and then an infinity or the largest value.
float HardValue(uint64_t index) {
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

template <typename T>
struct Operands {
  explicit Operands(GemmDtype dtype) : x(kRows * kLength) {
    uint64_t index = 0;
    for (T& value : x) value = HardElement<T>(index++);
    std::vector<T> rows(kOutputs * kLength);
    for (T& value : rows) value = HardElement<T>(index++);
    absl::StatusOr<PackedWeights> packed = PackedWeights::Create(dtype, kOutputs, kLength);
    QUIRE_CHECK(packed.ok());  // 40 KB
    weights = *std::move(packed);
    weights.PackRows(0, kOutputs, rows.data());
  }
  std::vector<T> x;
  PackedWeights weights;
};

template <typename T>
std::vector<float> Multiply(ThreadPool& pool, Isa isa, const Operands<T>& operands) {
  std::vector<float> y(kRows * kOutputs);
  pool.Run([&](ThreadContext& context) {
    Gemm(context, isa, kRows, operands.x.data(), operands.weights, y.data());
  });
  return y;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    const bool both_nan = std::isnan(a[i]) && std::isnan(b[i]);
    if (!both_nan && std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) return false;
  }
  return true;
}

}  // namespace

std::vector<Isa> UsableIsas() {
  ThreadPool pool(1);
  const Operands<Bf16> bf16(GemmDtype::kBf16);
  const Operands<float> fp32(GemmDtype::kFp32);
  const std::vector<float> bf16_expected = Multiply(pool, Isa::kPortable, bf16);
  const std::vector<float> fp32_expected = Multiply(pool, Isa::kPortable, fp32);
  std::vector<Isa> usable;
  for (Isa isa : SupportedIsas()) {
    if (SameBits(Multiply(pool, isa, bf16), bf16_expected) &&
        SameBits(Multiply(pool, isa, fp32), fp32_expected)) {
      usable.push_back(isa);
    }
  }
  return usable;
}

}  // namespace quire
