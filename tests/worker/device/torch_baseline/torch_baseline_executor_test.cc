#include "worker/device/torch_baseline/torch_baseline_executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "scheduler/batch/serial_scheduler.h"
#include "tests/worker/device/exactness/test_models.h"
#include "tests/worker/device/torch_baseline/baseline_driver.h"

namespace quire {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr uint32_t kContext = 160;

std::unique_ptr<TorchBaselineExecutor> MakeExecutor(std::shared_ptr<const Weights> weights,
                                                    BaselineCache cache) {
  auto executor = TorchBaselineExecutor::Create(
      std::move(weights), {.cache = cache, .context_length = kContext, .num_threads = 1});
  EXPECT_TRUE(executor.ok()) << executor.status();
  return *std::move(executor);
}

std::vector<TokenId> RandomTokens(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = random() % 199;
  return tokens;
}

// The vocabulary and length of a sequence are small, so everything fits: 199 tokens.
BaselineRequest Greedy(size_t prompt_length, uint32_t num_new_tokens) {
  return {.prompt = RandomTokens(prompt_length, static_cast<uint32_t>(prompt_length)),
          .num_new_tokens = num_new_tokens,
          .params = GreedyWithLogprobs(2)};
}

void ExpectClose(const std::vector<TokenLogprobs>& a, const std::vector<TokenLogprobs>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i].logprob, b[i].logprob, 2e-5) << i;
}

class EveryModel : public testing::TestWithParam<std::string> {
 protected:
  const std::shared_ptr<const Weights> weights_ =
      RandomWeights(TestModelNamed(GetParam()), DType::kF32);
};
INSTANTIATE_TEST_SUITE_P(TorchBaseline, EveryModel,
                         testing::Values("llama", "mistral", "qwen2", "qwen3"),
                         [](const auto& info) { return info.param; });

// Lengths below, at and beyond Mistral's window of 37, in the prompt and in the output.
TEST_P(EveryModel, DynamicAndStaticGiveTheSameTokens) {
  const auto dynamic = MakeExecutor(weights_, BaselineCache::kDynamic);
  const auto reserved = MakeExecutor(weights_, BaselineCache::kStatic);
  for (const auto& [prompt, output] : std::vector<std::pair<size_t, uint32_t>>{
           {1, 60}, {20, 40}, {36, 10}, {37, 10}, {38, 10}, {100, 60}}) {
    SCOPED_TRACE(prompt);
    const BaselineRequest request = Greedy(prompt, output);
    const BaselineOutcome a = RunBaseline(*dynamic, request);
    const BaselineOutcome b = RunBaseline(*reserved, request);
    EXPECT_THAT(a.output, SizeIs(output));
    EXPECT_EQ(a.output, b.output);
    ExpectClose(a.logprobs, b.logprobs);
    EXPECT_THAT(a.prompt_logprobs, SizeIs(prompt - 1));
    ExpectClose(a.prompt_logprobs, b.prompt_logprobs);
  }
}

TEST_P(EveryModel, ChunksOfThePromptGiveTheSameTokens) {
  for (const BaselineCache cache : {BaselineCache::kDynamic, BaselineCache::kStatic}) {
    const auto executor = MakeExecutor(weights_, cache);
    const BaselineRequest request = Greedy(90, 20);
    const BaselineOutcome whole = RunBaseline(*executor, request);
    for (const uint32_t chunk : {1u, 7u, 36u, 64u}) {
      SCOPED_TRACE(chunk);
      const BaselineOutcome chunked = RunBaseline(*executor, request, chunk);
      EXPECT_EQ(chunked.output, whole.output);
      ExpectClose(chunked.logprobs, whole.logprobs);
      ExpectClose(chunked.prompt_logprobs, whole.prompt_logprobs);
    }
  }
}

TEST_P(EveryModel, ContinuesAfterEmittedTokens) {
  const auto executor = MakeExecutor(weights_, BaselineCache::kDynamic);
  BaselineRequest request = Greedy(25, 30);
  const std::vector<TokenId> all = RunBaseline(*executor, request).output;
  request.emitted.assign(all.begin(), all.begin() + 12);
  request.num_new_tokens = 18;
  const BaselineOutcome rest = RunBaseline(*executor, request);
  EXPECT_EQ(rest.output, std::vector<TokenId>(all.begin() + 12, all.end()));
  EXPECT_THAT(rest.prompt_logprobs, SizeIs(24));
}

TEST_P(EveryModel, CacheBytesAreWhatIsHeld) {
  const ModelConfig& config = weights_->config();
  const uint64_t window = config.sliding_window.value_or(kContext);
  for (const BaselineCache cache : {BaselineCache::kDynamic, BaselineCache::kStatic}) {
    const auto executor = MakeExecutor(weights_, cache);
    const uint64_t per_token = executor->limits().kv_bytes_per_token;
    EXPECT_EQ(per_token, 2u * config.num_layers * config.kv_size() * sizeof(float));
    const BaselineOutcome outcome = RunBaseline(*executor, Greedy(30, 20));
    ASSERT_THAT(outcome.kv, SizeIs(20));
    for (uint64_t step = 0; step < 20; ++step) {
      const uint64_t tokens = 30 + step;
      const KvBytes& kv = outcome.kv[step];
      if (cache == BaselineCache::kStatic) {
        EXPECT_EQ(kv.reserved, window * per_token);
        EXPECT_EQ(kv.used, std::min(tokens, window) * per_token);
      } else {  // a full window gives its oldest position up only with the next copy
        EXPECT_EQ(kv.reserved, std::min(tokens, window) * per_token);
        EXPECT_EQ(kv.used,
                  std::min(tokens, config.sliding_window ? window - 1 : window) * per_token);
      }
    }
  }
}

TEST(TorchBaseline, BfloatDynamicAndStaticAgree) {
  const auto weights = RandomWeights(TestModelNamed("qwen3"), DType::kBF16);
  const auto dynamic = MakeExecutor(weights, BaselineCache::kDynamic);
  const auto reserved = MakeExecutor(weights, BaselineCache::kStatic);
  const BaselineOutcome a = RunBaseline(*dynamic, Greedy(40, 1));
  const BaselineOutcome b = RunBaseline(*reserved, Greedy(40, 1));
  EXPECT_EQ(a.output, b.output);
  EXPECT_EQ(dynamic->limits().kv_bytes_per_token, 2u * 2 * 80 * 2);
}

TEST(TorchBaseline, LogprobsAreOfTheModelsDistribution) {
  const auto executor =
      MakeExecutor(RandomWeights(TestModelNamed("llama"), DType::kF32), BaselineCache::kDynamic);
  BaselineRequest request = Greedy(100, 5);
  request.params = GreedyWithLogprobs(20);
  const BaselineOutcome outcome = RunBaseline(*executor, request);
  // The prompt and the output as a prompt give the output's log-probabilities again.
  BaselineRequest again = request;
  again.prompt.insert(again.prompt.end(), outcome.output.begin(), outcome.output.end());
  const BaselineOutcome scored = RunBaseline(*executor, again);
  ASSERT_THAT(scored.prompt_logprobs, SizeIs(104));
  for (size_t i = 0; i < 5; ++i) {
    const TokenLogprobs& token = outcome.logprobs[i];
    EXPECT_NEAR(scored.prompt_logprobs[99 + i].logprob, token.logprob, 2e-5);
    ASSERT_THAT(token.top, SizeIs(20));
    EXPECT_EQ(token.top[0].token, outcome.output[i]);
    double mass = 0;
    for (const TopLogprob& top : token.top) mass += std::exp(top.logprob);
    EXPECT_GT(mass, 0.1);
    EXPECT_LE(mass, 1.0 + 1e-5);
  }
}

TEST(TorchBaseline, SampledTokensFollowTheSeed) {
  const auto executor =
      MakeExecutor(RandomWeights(TestModelNamed("qwen2"), DType::kF32), BaselineCache::kDynamic);
  const auto run = [&](uint64_t seed) {
    auto params = std::make_shared<SamplingParams>();
    params->seed = seed;
    params->repetition_penalty = 1.3f;
    return RunBaseline(*executor, {.prompt = {1, 2, 3}, .num_new_tokens = 30, .params = params});
  };
  EXPECT_EQ(run(1).output, run(1).output);
  EXPECT_NE(run(1).output, run(2).output);
}

// Test weights are the test's own memory.
void Spoil(const WeightView& view, size_t element) {
  static_cast<float*>(const_cast<void*>(view.data))[element] =
      std::numeric_limits<float>::quiet_NaN();
}

TEST(TorchBaseline, NumbersThatAreNotFiniteNameTheirStage) {
  const ModelConfig config = TestModelNamed("mistral");  // untied
  const auto fault_of = [&](const std::function<WeightView(const Weights&)>& pick,
                            BaselineCache cache) {
    const auto weights = RandomWeights(config, DType::kF32);
    Spoil(pick(*weights), 3);
    const BaselineOutcome outcome = RunBaseline(*MakeExecutor(weights, cache), Greedy(50, 4));
    EXPECT_THAT(outcome.output, IsEmpty());
    EXPECT_THAT(outcome.logprobs, IsEmpty());
    return outcome.fault;
  };
  for (const BaselineCache cache : {BaselineCache::kDynamic, BaselineCache::kStatic}) {
    EXPECT_EQ(fault_of([](const Weights& w) { return w.layers()[1].k; }, cache),
              NumericFault::kAttention);
    EXPECT_EQ(fault_of([](const Weights& w) { return w.layers()[0].down; }, cache),
              NumericFault::kMlp);
    EXPECT_EQ(fault_of([](const Weights& w) { return w.lm_head(); }, cache), NumericFault::kLogits);
  }
}

TEST(TorchBaseline, AFaultLeavesNothingBehind) {
  const auto weights = RandomWeights(TestModelNamed("mistral"), DType::kF32);
  const BaselineRequest good = {
      .prompt = {1, 2, 3, 4}, .num_new_tokens = 20, .params = GreedyWithLogprobs(0)};
  const auto expected = RunBaseline(*MakeExecutor(weights, BaselineCache::kDynamic), good).output;
  ASSERT_THAT(expected, Not(testing::Contains(198)));
  Spoil(weights->embedding(), 198 * weights->config().hidden_size);
  for (const BaselineCache cache : {BaselineCache::kDynamic, BaselineCache::kStatic}) {
    const auto executor = MakeExecutor(weights, cache);
    BaselineRequest bad = good;
    bad.prompt.assign(30, 198);
    EXPECT_EQ(RunBaseline(*executor, bad).fault, NumericFault::kEmbedding);
    const BaselineOutcome after = RunBaseline(*executor, good);
    EXPECT_EQ(after.fault, NumericFault::kNone);
    EXPECT_EQ(after.output, expected);
  }
}

// SerialScheduler's own plans, with a sequence aborted while its step runs.
TEST(TorchBaseline, ACancelledSequenceDoesNotTouchTheNext) {
  const auto weights = RandomWeights(TestModelNamed("llama"), DType::kF32);
  for (const BaselineCache cache : {BaselineCache::kDynamic, BaselineCache::kStatic}) {
    const auto executor = MakeExecutor(weights, cache);
    const BaselineRequest request = Greedy(33, 12);
    const std::vector<TokenId> expected = RunBaseline(*executor, request).output;

    SerialScheduler scheduler(/*max_queue=*/2);
    for (const SequenceTag tag : {0, 1}) {
      SequenceSpec spec;
      spec.tag = tag;
      spec.tokens = tag == 0 ? RandomTokens(70, 5) : request.prompt;
      spec.num_prompt_tokens = static_cast<uint32_t>(spec.tokens.size());
      spec.max_output_tokens = tag == 0 ? 50 : request.num_new_tokens;
      spec.params = request.params;
      ASSERT_TRUE(scheduler.Add(std::move(spec), 0).ok());
    }
    StepPlan plan;
    StepResult result;
    SequenceEvents events;
    while (scheduler.Plan(0, &plan, &events)) {
      ASSERT_TRUE(executor->Launch(plan).ok());
      if (plan.step == 5) scheduler.Abort(0, absl::CancelledError(), std::nullopt, 0, &events);
      ASSERT_TRUE(executor->Collect(&result).ok());
      scheduler.Settle(result, 0, &events);
    }
    std::vector<TokenId> output;
    size_t cancelled_tokens = 0;
    for (const SequenceEvents::Token& token : events.tokens) {
      if (token.tag == 1) output.push_back(token.token);
      cancelled_tokens += token.tag == 0;
    }
    EXPECT_EQ(output, expected);
    EXPECT_EQ(cancelled_tokens, 4u);
    ASSERT_THAT(events.finishes, SizeIs(2));
    EXPECT_EQ(events.finishes[0].reason, FinishReason::kAborted);
    EXPECT_EQ(events.finishes[1].reason, FinishReason::kLength);
    EXPECT_EQ(events.finishes[1].usage.kv_used_bytes,
              (33 + 12 - 1) * executor->limits().kv_bytes_per_token);
  }
}

// Equal ids mean equal tokens, so all that the sums depend on is in them.
TEST(TorchBaseline, NumericsPartsTellWhatCanChangeATokenHere) {
  const auto weights = RandomWeights(TestModelNamed("llama"), DType::kF32);
  const auto parts = [&](BaselineCache cache, uint32_t num_threads) {
    const auto executor =
        TorchBaselineExecutor::Create(weights, {.cache = cache, .num_threads = num_threads});
    EXPECT_TRUE(executor.ok()) << executor.status();
    return (*executor)->numerics_parts();
  };
  const NumericsParts one = parts(BaselineCache::kDynamic, 1);
  EXPECT_EQ(one, parts(BaselineCache::kDynamic, 1));
  EXPECT_NE(one, parts(BaselineCache::kDynamic, 2));
  EXPECT_NE(one, parts(BaselineCache::kStatic, 1));
  EXPECT_THAT(one, Contains(Pair("torch_version", StartsWith("2."))));
  EXPECT_THAT(one, Contains(Pair("sampler_version", std::to_string(kSamplerVersion))));
}

TEST(TorchBaseline, RefusesWhatItCannotBe) {
  const auto weights = RandomWeights(TestModelNamed("llama"), DType::kF32);
  const auto no_threads = TorchBaselineExecutor::Create(weights, {.num_threads = 0});
  EXPECT_EQ(no_threads.status().code(), absl::StatusCode::kInvalidArgument);
  const auto too_long = TorchBaselineExecutor::Create(weights, {.context_length = 513});
  EXPECT_EQ(too_long.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(too_long.status().message(), HasSubstr("513"));
}

// 2^32 tokens of 16,384 values: more than a process can address.
TEST(TorchBaseline, AReservationBeyondMemoryIsAnError) {
  ModelConfig config = TestModelNamed("llama");
  config.num_heads = config.num_kv_heads = 64;
  config.head_dim = 256;
  config.hidden_size = 16;
  config.max_position_embeddings = std::numeric_limits<uint32_t>::max();
  const auto executor = TorchBaselineExecutor::Create(RandomWeights(config, DType::kF32),
                                                      {.cache = BaselineCache::kStatic});
  EXPECT_EQ(executor.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(executor.status().message(), HasSubstr("4294967295 tokens"));
}

}  // namespace
}  // namespace quire
