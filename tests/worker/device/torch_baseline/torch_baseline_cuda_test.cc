// The baseline on a GPU: the CPU's numbers, within rounding, and the same promises.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/worker/device/exactness/test_models.h"
#include "tests/worker/device/torch_baseline/baseline_driver.h"
#include "worker/device/torch_baseline/torch_baseline_executor.h"

namespace quire {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

constexpr uint32_t kContext = 160;
constexpr BaselineCache kCaches[] = {BaselineCache::kDynamic, BaselineCache::kStatic};

absl::StatusOr<std::unique_ptr<TorchBaselineExecutor>> Create(
    std::shared_ptr<const Weights> weights, BaselineDevice device, BaselineCache cache) {
  return TorchBaselineExecutor::Create(
      std::move(weights),
      {.device = device, .cache = cache, .context_length = kContext, .num_threads = 1});
}

BaselineRequest Greedy(size_t prompt_length, uint32_t num_new_tokens) {
  std::mt19937 random(static_cast<uint32_t>(prompt_length));
  BaselineRequest request;
  request.prompt.resize(prompt_length);
  for (TokenId& token : request.prompt) token = random() % 199;
  request.num_new_tokens = num_new_tokens;
  request.params = GreedyWithLogprobs(2);
  return request;
}

class TorchBaselineCuda : public testing::Test {
 protected:
  void SetUp() override {
    const auto executor = Create(RandomWeights(TestModelNamed("llama"), DType::kF32),
                                 BaselineDevice::kCuda, BaselineCache::kDynamic);
    if (executor.status().code() == absl::StatusCode::kFailedPrecondition) {
      GTEST_SKIP() << executor.status().message();
    }
  }

  std::unique_ptr<TorchBaselineExecutor> Make(std::shared_ptr<const Weights> weights,
                                              BaselineDevice device, BaselineCache cache) {
    auto executor = Create(std::move(weights), device, cache);
    EXPECT_TRUE(executor.ok()) << executor.status();
    return *std::move(executor);
  }

  // Largest difference between the log-probabilities that the two give to a sequence's tokens.
  static double LargestDifference(const std::vector<TokenLogprobs>& a,
                                  const std::vector<TokenLogprobs>& b) {
    EXPECT_EQ(a.size(), b.size());
    double largest = 0;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      largest = std::max(largest, std::fabs(double{a[i].logprob} - b[i].logprob));
    }
    return largest;
  }

  // Over prompts below, at and beyond Mistral's window of 37, and outputs that the GPU chose.
  void ExpectAsOnTheCpu(DType dtype, double tolerance) {
    for (const char* const model : {"llama", "mistral", "qwen2", "qwen3"}) {
      const auto weights = RandomWeights(TestModelNamed(model), dtype);
      for (const BaselineCache cache : kCaches) {
        const auto cpu = Make(weights, BaselineDevice::kCpu, cache);
        const auto gpu = Make(weights, BaselineDevice::kCuda, cache);
        for (const auto& [prompt, output] :
             {std::pair{1u, 60u}, {20u, 40u}, {37u, 10u}, {100u, 60u}}) {
          SCOPED_TRACE(testing::Message()
                       << model << ", cache " << static_cast<int>(cache) << ", prompt " << prompt);
          const BaselineRequest request = Greedy(prompt, output);
          const BaselineOutcome on_gpu = RunBaseline(*gpu, request);
          ASSERT_THAT(on_gpu.output, SizeIs(output));
          BaselineRequest all = request;
          all.prompt.insert(all.prompt.end(), on_gpu.output.begin(), on_gpu.output.end() - 1);
          all.num_new_tokens = 1;
          const BaselineOutcome on_cpu = RunBaseline(*cpu, all);
          std::vector<TokenLogprobs> generated = on_gpu.prompt_logprobs;
          generated.insert(generated.end(), on_gpu.logprobs.begin(), on_gpu.logprobs.end());
          std::vector<TokenLogprobs> scored = on_cpu.prompt_logprobs;
          scored.push_back(on_cpu.logprobs[0]);
          EXPECT_LT(LargestDifference(generated, scored), tolerance);
          EXPECT_EQ(on_gpu.kv.back().used, on_cpu.kv.back().used);
        }
      }
    }
  }
};

TEST_F(TorchBaselineCuda, Fp32GivesTheCpusNumbers) { ExpectAsOnTheCpu(DType::kF32, 1e-4); }

TEST_F(TorchBaselineCuda, Bf16GivesTheCpusNumbersWithinItsRounding) {
  ExpectAsOnTheCpu(DType::kBF16, 0.25);
}

TEST_F(TorchBaselineCuda, NumbersThatAreNotFiniteNameTheirStageAndLeaveNothingBehind) {
  const auto weights = RandomWeights(TestModelNamed("mistral"), DType::kF32);
  const auto spoil = [](const WeightView& view, size_t element) {
    static_cast<float*>(const_cast<void*>(view.data))[element] =
        std::numeric_limits<float>::quiet_NaN();
  };
  spoil(weights->embedding(), 198 * weights->config().hidden_size);
  for (const BaselineCache cache : kCaches) {
    const auto executor = Make(weights, BaselineDevice::kCuda, cache);
    BaselineRequest good = Greedy(4, 20);
    good.prompt = {1, 2, 3, 4};
    const BaselineOutcome before = RunBaseline(*executor, good);
    BaselineRequest bad = good;
    bad.prompt.assign(30, 198);
    const BaselineOutcome failed = RunBaseline(*executor, bad);
    EXPECT_EQ(failed.fault, NumericFault::kEmbedding);
    EXPECT_THAT(failed.output, IsEmpty());
    EXPECT_EQ(RunBaseline(*executor, good).output, before.output);
  }
  const auto of_layer = RandomWeights(TestModelNamed("llama"), DType::kF32);
  spoil(of_layer->layers()[1].k, 3);
  const auto executor = Make(of_layer, BaselineDevice::kCuda, BaselineCache::kDynamic);
  EXPECT_EQ(RunBaseline(*executor, Greedy(50, 4)).fault, NumericFault::kAttention);
}

// 2^31 tokens of 64 · 256 · 2 · layers values: more than any GPU has.
TEST_F(TorchBaselineCuda, AReservationBeyondTheGpusMemoryIsAnError) {
  ModelConfig config = TestModelNamed("llama");
  config.num_heads = config.num_kv_heads = 64;
  config.head_dim = 256;
  config.hidden_size = 16;
  config.max_position_embeddings = 1u << 31;
  const auto executor = TorchBaselineExecutor::Create(
      RandomWeights(config, DType::kF32),
      {.device = BaselineDevice::kCuda, .cache = BaselineCache::kStatic});
  EXPECT_EQ(executor.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(executor.status().message(), HasSubstr("2147483648 tokens"));
}

TEST_F(TorchBaselineCuda, NumericsPartsTellTheDevice) {
  const auto executor = Make(RandomWeights(TestModelNamed("llama"), DType::kF32),
                             BaselineDevice::kCuda, BaselineCache::kDynamic);
  EXPECT_THAT(executor->numerics_parts(), Contains(Pair("device", "cuda")));
}

}  // namespace
}  // namespace quire
