#ifndef QUIRE_TESTS_WORKER_DEVICE_CUDA_CPU_REFERENCE_H_
#define QUIRE_TESTS_WORKER_DEVICE_CUDA_CPU_REFERENCE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "worker/device/cpu/gemm/bf16.h"
#include "worker/device/cpu/kernels/kernels.h"
#include "worker/model/dtype.h"

// The CPU's kernels, portable path, as the reference for the device's.
namespace quire::cuda {

template <typename T>
inline constexpr DType kDType = std::is_same_v<T, float> ? DType::kF32 : DType::kBF16;

inline const TypedKernels<float>& CpuKernelsOf(float) { return KernelsFor(Isa::kPortable).fp32; }
inline const TypedKernels<Bf16>& CpuKernelsOf(Bf16) { return KernelsFor(Isa::kPortable).bf16; }

inline float Value(float x) { return x; }
inline float Value(Bf16 x) { return ToFloat(x); }
template <typename T>
T As(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    return ToBf16(x);
  }
}

// Normally distributed.
template <typename T>
std::vector<T> RandomValues(size_t size, uint32_t seed, float deviation = 1.0f) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<T> values(size);
  for (T& value : values) value = As<T>(normal(bits));
  return values;
}

template <typename T>
bool SameBits(const T* a, const T* b, size_t size) {
  return std::memcmp(a, b, size * sizeof(T)) == 0;
}
template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && SameBits(a.data(), b.data(), a.size());
}

// bf16 numbers in their order, neighbours one apart.
inline int32_t Rank(Bf16 x) {
  return x.bits & 0x8000 ? -static_cast<int32_t>(x.bits & 0x7fff) : x.bits;
}

// How results stand to the reference's. fp32: to 1e-6. In bf16 sums in another order move a
// rounding now and then: by one place, or two where another product is rounded after it.
template <typename T>
class Comparison {
 public:
  void Add(T actual, T expected) {
    if (!Differ(actual, expected)) return;
    if constexpr (std::is_same_v<T, float>) {
      Judge(std::abs(double{actual} - expected) / std::max(1.0f, std::abs(expected)), 1e-6);
    } else {
      Judge(std::isnan(ToFloat(actual)) ? NAN : std::abs(Rank(actual) - Rank(expected)), 2);
    }
  }
  // For differences of numbers of the magnitude `scale`.
  void AddScaled(T actual, T expected, float scale) {
    if (!Differ(actual, expected)) return;
    Judge(std::abs(double{Value(actual)} - Value(expected)) / scale,
          std::is_same_v<T, float> ? 1e-6 : 0x1p-7);
  }
  void AddAll(const std::vector<T>& actual, const std::vector<T>& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) Add(actual[i], expected[i]);
  }

  // Prints one line. Fails where a result is wrong, or where more than a few bf16 results differ.
  void Report(const std::string& name) const {
    std::cout << "  " << DTypeName(kDType<T>) << " " << name << ": " << size_ << " values, "
              << unequal_ << " unequal, worst " << worst_ << "\n";
    EXPECT_EQ(wrong_, 0u) << name;
    if (!std::is_same_v<T, float>) {
      EXPECT_LE(unequal_, 8 + size_ / 50) << name;
    }
  }
  void ReportEqual(const std::string& name) const {
    Report(name);
    EXPECT_EQ(unequal_, 0u) << name;
  }

 private:
  bool Differ(T actual, T expected) {
    ++size_;
    if (SameBits(&actual, &expected, 1)) return false;
    ++unequal_;
    return true;
  }
  void Judge(double error, double limit) {
    if (!(error <= worst_)) worst_ = error;
    if (!(error <= limit)) ++wrong_;
  }

  size_t size_ = 0;
  size_t unequal_ = 0;
  size_t wrong_ = 0;
  double worst_ = 0;
};

}  // namespace quire::cuda

#endif  // QUIRE_TESTS_WORKER_DEVICE_CUDA_CPU_REFERENCE_H_
