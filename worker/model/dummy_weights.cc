#include "worker/model/dummy_weights.h"

#include <cstdio>

#include "worker/model/sha256.h"
#include "worker/model/str_cat.h"

namespace quire {
namespace {

// FNV-1a.
uint64_t HashName(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// The output function of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
// generators", 2014).
inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

bool IsNorm(std::string_view name) { return name.ends_with("norm.weight"); }

}  // namespace

void FillDummyElements(std::string_view name, const ModelConfig& config, uint64_t first,
                       uint64_t count, DType dtype, void* to) {
  const uint64_t key = HashName(name);
  const bool norm = IsNorm(name);
  // Four uniform 16-bit numbers sum to nearly a normal of mean 131,070 and standard deviation 2^16
  // / sqrt(3).
  const float scale = config.initializer_range / 37837.227f;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t bits = Mix(key + (first + i + 1) * 0x9e3779b97f4a7c15u);
    const uint32_t sum = static_cast<uint32_t>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                               (bits >> 32 & 0xffff) + (bits >> 48));
    const float value =
        norm ? 1.0f : static_cast<float>(static_cast<int32_t>(sum) - 131070) * scale;
    switch (dtype) {
      case DType::kF32:
        static_cast<float*>(to)[i] = value;
        break;
      case DType::kBF16:
        static_cast<uint16_t*>(to)[i] = Bf16FromFloat(value);
        break;
      case DType::kF16:
        static_cast<uint16_t*>(to)[i] = F16FromFloat(value);
        break;
    }
  }
}

std::string DummyDigest(std::string_view name, const ModelConfig& config) {
  char range[40];
  std::snprintf(range, sizeof(range), "%.9g", static_cast<double>(config.initializer_range));
  return Sha256Hex(StrCat("dummy weights ", kDummyWeightsVersion, " ", range, " ", name));
}

}  // namespace quire
