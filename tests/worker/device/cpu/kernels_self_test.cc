#include "worker/device/cpu/kernels/self_test.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace quire {
namespace {

const CpuKernels& Portable() { return KernelsFor(Isa::kPortable); }

TEST(KernelsSelfTest, EverySupportedPathPasses) {
  for (const Isa isa : SupportedIsas()) {
    EXPECT_TRUE(SameResults(KernelsFor(isa), Portable())) << IsaName(isa);
  }
}

void Spoil(float& value) { value = value == 0 ? 1e-20f : value * 1.0000002f; }
void Spoil(Bf16& value) { value.bits ^= 1; }

// The portable operations, each with one that is wrong in a last place.
template <typename T>
void AddWrong(TypedKernels<T> CpuKernels::*typed,
              std::vector<std::pair<const char*, CpuKernels>>* wrong) {
  static const TypedKernels<T>& right = KernelsOf<T>(Portable());
  const auto add = [&](const char* name) -> TypedKernels<T>& {
    wrong->emplace_back(name, Portable());
    return wrong->back().second.*typed;
  };
  add("rms_norm").rms_norm = [](const T* x, const T* weight, float eps, int n, T* y) {
    const bool finite = right.rms_norm(x, weight, eps, n, y);
    Spoil(y[n - 1]);
    return finite;
  };
  add("rms_norm's verdict").rms_norm = [](const T* x, const T* weight, float eps, int n, T* y) {
    return !right.rms_norm(x, weight, eps, n, y);
  };
  add("add").add = [](T* x, const T* delta, int n) {
    right.add(x, delta, n);
    Spoil(x[n - 1]);
  };
  add("silu_mul").silu_mul = [](const T* gate, const T* up, int n, T* out) {
    right.silu_mul(gate, up, n, out);
    Spoil(out[0]);
  };
  add("rope").rope = [](T* head, const float* cos, const float* sin, int half) {
    right.rope(head, cos, sin, half);
    Spoil(head[2 * half - 1]);
  };
  add("store_key").store_key = [](const T* key, int head_dim, uint32_t block_size, uint32_t offset,
                                  T* block) {
    right.store_key(key, head_dim, block_size, offset ^ 1, block);
  };
  add("attention").attention = [](const AttentionTile<T>& tile) {
    right.attention(tile);
    Spoil(tile.outputs[tile.num_rows - 1][tile.head_dim - 1]);
  };
}

void AddWrongSampling(std::vector<std::pair<const char*, CpuKernels>>* wrong) {
  static const SamplingKernels& right = Portable().sampling;
  const auto add = [&](const char* name) -> SamplingKernels& {
    wrong->emplace_back(name, Portable());
    return wrong->back().second.sampling;
  };
  add("row_max").row_max = [](const float* row, uint32_t n) {
    RowMax found = right.row_max(row, n);
    Spoil(found.max);
    return found;
  };
  add("arg_max").arg_max = [](const float* row, uint32_t n) {
    RowMax found = right.arg_max(row, n);
    ++found.index;
    return found;
  };
  add("log_sum_exp").log_sum_exp = [](const float* row, uint32_t n, float max) {
    float sum = right.log_sum_exp(row, n, max);
    Spoil(sum);
    return sum;
  };
  add("top").top = [](const float* row, uint32_t n, uint32_t k, uint32_t* top) {
    right.top(row, n, k, top);
    std::swap(top[k - 1], top[k - 2]);
  };
  add("score").score = [](const float* row, uint32_t n, float max, float temperature, float* scores,
                          float* weights) {
    right.score(row, n, max, temperature, scores, weights);
    Spoil(weights[n - 1]);
  };
  add("gather").gather = [](const float* scores, const float* weights, uint32_t n, float threshold,
                            float min_weight, float* out_scores, float* out_weights,
                            uint32_t* out_indices) {
    return right.gather(scores, weights, n, threshold, min_weight, out_scores, out_weights,
                        out_indices) -
           1;
  };
  add("mass_above").mass_above = [](const float* scores, const float* weights, uint32_t n,
                                    float pivot, uint32_t* count) {
    return right.mass_above(scores, weights, n, pivot, count) * 1.0001;
  };
  add("partition").partition = [](float* scores, float* weights, uint32_t* indices, uint32_t n,
                                  float pivot, bool upper, float* lowest, float* highest) {
    const uint32_t kept =
        right.partition(scores, weights, indices, n, pivot, upper, lowest, highest);
    *lowest = *highest;
    return kept;
  };
  add("gumbel_arg_max").gumbel_arg_max = [](const float* scores, const float* weights, uint32_t n,
                                            const KeptSet& kept, const GumbelKey& key) {
    return right.gumbel_arg_max(scores, weights, n, kept, {key.seed, key.position, key.choice + 1});
  };
}

TEST(KernelsSelfTest, AWrongOperationIsNoticed) {
  std::vector<std::pair<const char*, CpuKernels>> wrong;
  AddWrong<float>(&CpuKernels::fp32, &wrong);
  AddWrong<Bf16>(&CpuKernels::bf16, &wrong);
  AddWrongSampling(&wrong);
  for (const auto& [name, kernels] : wrong) {
    EXPECT_FALSE(SameResults(kernels, Portable())) << name;
  }
}

TEST(KernelsSelfTest, TheFastestExactPathIsUsedHere) {
  const Isa isa = FastestExactIsa();
  EXPECT_TRUE(SameResults(KernelsFor(isa), Portable()));
}

}  // namespace
}  // namespace quire
