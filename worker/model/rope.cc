#include "worker/model/rope.h"

#include <bit>
#include <cmath>

namespace quire {
namespace {

// Elementary functions in double with nothing but IEEE additions, multiplications and divisions,
// each rounded where it stands (-ffp-contract=off), so that they give the same bits everywhere.
// Their errors, some 1e-15, vanish when the result is rounded to fp32.

constexpr double kLn2High = 0x1.62e42fee00000p-1;  // 33 bits: k · kLn2High is exact for |k| < 2^20
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;

// REQUIRES: x > 0, normal and finite.
double Log(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  // log m = 2 artanh(s), s = (m − 1) / (m + 1), |s| < 0.172: the series to s^27 leaves less than
  // 1e-22.
  const double s = (m - 1.0) / (m + 1.0);
  const double s2 = s * s;
  double series = 0.0;
  for (int n = 27; n >= 3; n -= 2) series = (series + 1.0 / n) * s2;
  const double log_m = 2.0 * (s + s * series);
  return exponent * kLn2High + (log_m + exponent * kLn2Low);
}

// REQUIRES: |x| < 700.
double Exp(double x) {
  const double k = std::nearbyint(x * 1.4426950408889634);
  const double r = (x - k * kLn2High) - k * kLn2Low;  // |r| < 0.347
  double sum = 1.0;
  for (int n = 16; n >= 1; --n) sum = 1.0 + sum * r / n;
  return sum * std::bit_cast<double>(static_cast<uint64_t>(static_cast<int64_t>(k) + 1023) << 52);
}

struct SinCos {
  double sin;
  double cos;
};

// REQUIRES: 0 <= x < 2^25. Reduction after Cody and Waite, with π / 2 in parts of 27 bits, so that
// products with the quotient, 24 bits, are exact.
SinCos ComputeSinCos(double x) {
  constexpr double kHalfPi1 = 0x1.921fb54000000p+0;
  constexpr double kHalfPi2 = 0x1.10b4610000000p-30;
  constexpr double kHalfPi3 = 0x1.a62633145c06ep-58;
  const double k = std::nearbyint(x * 0.63661977236758134);
  const double r = ((x - k * kHalfPi1) - k * kHalfPi2) - k * kHalfPi3;  // |r| < 0.786
  const double r2 = r * r;
  double sine = 1.0;
  for (int n = 18; n >= 2; n -= 2) sine = 1.0 - sine * r2 / (n * (n + 1));
  sine *= r;
  double cosine = 1.0;
  for (int n = 19; n >= 1; n -= 2) cosine = 1.0 - cosine * r2 / (n * (n + 1));
  switch (static_cast<int64_t>(k) & 3) {
    case 0:
      return {sine, cosine};
    case 1:
      return {cosine, -sine};
    case 2:
      return {-sine, -cosine};
    default:
      return {-cosine, sine};
  }
}

// Llama 3.1's rule, which scales long wavelengths alone, with transformers' order of fp32
// operations; its tensor code turns c / x into (1 / x) · c.
float ScaleLlama3(float frequency, const RopeConfig& rope) {
  const double old_context = rope.original_max_position_embeddings;
  const float low_wavelength = static_cast<float>(old_context / rope.low_freq_factor);
  const float high_wavelength = static_cast<float>(old_context / rope.high_freq_factor);
  const float factor = static_cast<float>(rope.factor);
  const float wavelength = (1.0f / frequency) * 6.28318530717958648f;
  if (wavelength > low_wavelength) return frequency / factor;
  if (wavelength < high_wavelength) return frequency;
  const float smooth = ((1.0f / wavelength) * static_cast<float>(old_context) -
                        static_cast<float>(rope.low_freq_factor)) /
                       static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

}  // namespace

std::vector<float> RopeInverseFrequencies(const RopeConfig& rope, uint32_t head_dim) {
  std::vector<float> frequencies(head_dim / 2);
  const double log_theta = Log(static_cast<float>(rope.theta));
  for (uint32_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    const float power = static_cast<float>(Exp(log_theta * exponent));
    const float frequency = 1.0f / power;
    switch (rope.scaling) {
      case RopeScaling::kNone:
        frequencies[i] = frequency;
        break;
      case RopeScaling::kLinear:
        frequencies[i] = frequency / static_cast<float>(rope.factor);
        break;
      case RopeScaling::kLlama3:
        frequencies[i] = ScaleLlama3(frequency, rope);
        break;
    }
  }
  return frequencies;
}

RopeTables ComputeRopeTables(const RopeConfig& rope, uint32_t head_dim, uint32_t context_length) {
  const std::vector<float> frequencies = RopeInverseFrequencies(rope, head_dim);
  RopeTables tables;
  tables.context_length = context_length;
  tables.half = head_dim / 2;
  tables.cos.resize(size_t{context_length} * tables.half);
  tables.sin.resize(tables.cos.size());
  size_t at = 0;
  for (uint32_t position = 0; position < context_length; ++position) {
    for (float frequency : frequencies) {
      const float angle = static_cast<float>(position) * frequency;
      const SinCos value = ComputeSinCos(angle);
      tables.cos[at] = static_cast<float>(value.cos);
      tables.sin[at] = static_cast<float>(value.sin);
      ++at;
    }
  }
  return tables;
}

}  // namespace quire
