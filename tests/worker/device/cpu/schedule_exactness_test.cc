// E1, E2 and E4 through the whole engine: RequestEngine, BatchScheduler and CpuExecutor run random
// requests in random company, and every row of logits and every token is that of the request alone.
//
// What varies from schedule to schedule: who comes when and is cancelled, the token budget (chunks
// of prompts), slots, block size, a pool so small that sequences are preempted, shared prefixes,
// the prefix cache, choices that share a prompt, requests that begin with emitted tokens, threads
// and instruction set. A block is filled with NaN before a sequence gets it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <utility>

#include "scheduler/batch/batch_scheduler.h"
#include "tests/worker/device/cpu/executor_driver.h"
#include "tests/worker/device/cpu/test_models.h"
#include "worker/engine/request_engine.h"

namespace quire {
namespace {

constexpr uint32_t kNumRequests = 24;
constexpr uint32_t kMaxPrompt = 110;
constexpr uint32_t kMaxNewTokens = 30;

struct Counts {
  uint64_t schedules = 0;
  uint64_t preemptions = 0;
  uint64_t prefix_hit_tokens = 0;
  uint64_t rows = 0;
  uint64_t tokens = 0;
};

std::unique_ptr<CpuExecutor> MakeExecutor(const CpuExecutorOptions& options,
                                          const std::shared_ptr<const Weights>& weights) {
  auto executor = CpuExecutor::Create(options, weights);
  EXPECT_TRUE(executor.ok()) << executor.status();
  return *std::move(executor);
}

// A model, some requests, and what each of their choices gives alone, one position a step.
class Subject {
 public:
  Subject(const ModelConfig& config, DType dtype) : weights_(RandomWeights(config, dtype)) {
    std::mt19937 random(3);
    // Few distinct beginnings, so that requests find prefixes of others.
    std::vector<std::vector<TokenId>> beginnings(3, std::vector<TokenId>(70));
    for (auto& beginning : beginnings) {
      for (TokenId& token : beginning) token = random() % config.vocab_size;
    }
    for (uint32_t i = 0; i < kNumRequests; ++i) {
      const auto& beginning = beginnings[random() % beginnings.size()];
      std::vector<TokenId> prompt(beginning.begin(),
                                  beginning.begin() + random() % beginning.size());
      for (uint32_t own = 1 + random() % 40; own > 0; --own)
        prompt.push_back(random() % config.vocab_size);
      EngineRequest request;
      request.key = {0, i};
      request.prompt = std::move(prompt);
      request.params = *TestParams(i);
      request.n = 1 + random() % 2;
      request.max_new_tokens = 1 + random() % kMaxNewTokens;
      request.priority = static_cast<int32_t>(random() % 3);
      requests_.push_back(std::move(request));
    }
    RunAlone();
  }

  const std::shared_ptr<const Weights>& weights() const { return weights_; }
  const ModelConfig& config() const { return weights_->config(); }
  const EngineRequest& request(uint32_t i) const { return requests_[i]; }
  const TestSequence& alone(uint32_t i, uint32_t choice) const { return alone_.at({i, choice}); }

 private:
  void RunAlone() {
    const auto executor = MakeExecutor({.num_slots = 1,
                                        .max_num_batched_tokens = 1,
                                        .num_blocks = 16,
                                        .isa = SupportedIsas().back()},
                                       weights_);
    for (uint32_t i = 0; i < kNumRequests; ++i) {
      for (uint32_t choice = 0; choice < requests_[i].n; ++choice) {
        auto params = std::make_shared<SamplingParams>(requests_[i].params);
        params->choice = choice;
        std::vector<TestSequence> one(1);
        one[0].prompt = requests_[i].prompt;
        one[0].num_new_tokens = requests_[i].max_new_tokens;
        one[0].params = std::move(params);
        RunSequences(*executor, {.seed = i, .max_running = 1, .max_chunk = 1}, one);
        alone_[{i, choice}] = std::move(one[0]);
      }
    }
  }

  const std::shared_ptr<const Weights> weights_;
  std::vector<EngineRequest> requests_;
  std::map<std::pair<uint32_t, uint32_t>, TestSequence> alone_;
};

class Schedule {
 public:
  Schedule(const Subject& subject, uint64_t seed) : subject_(subject), random_(seed) {
    for (uint32_t i = 0; i < kNumRequests; ++i) {
      if (Below(2) == 0) arriving_.push_back(i);
    }
    std::shuffle(arriving_.begin(), arriving_.end(), random_);

    CpuExecutorOptions options;
    options.block_size = 8u << Below(3);
    options.num_slots = 1 + Below(8);
    options.max_num_batched_tokens = options.num_slots + Below(80);
    options.num_threads = static_cast<int>(1 + Below(2));
    // The portable path comes first, and is slow: it has fewer turns.
    const std::vector<Isa> isas = SupportedIsas();
    options.isa = isas[Below(20) == 0 ? 0 : std::min<size_t>(1 + Below(3), isas.size() - 1)];
    const uint32_t largest = (kMaxPrompt + kMaxNewTokens) / options.block_size + 1;
    options.num_blocks = largest + Below(largest);
    executor_ = MakeExecutor(options, subject.weights());
    for (BlockId block = 0; block < options.num_blocks; ++block) {
      executor_->kv_store_for_test().FillWithNan(block);
    }
    executor_->set_logits_observer([this](SlotId slot, uint32_t position, const float* logits) {
      Compare(slot, position, logits);
    });

    BatchScheduler::Options scheduler;
    scheduler.kv.num_blocks = options.num_blocks;
    scheduler.kv.block_size = options.block_size;
    scheduler.kv.enable_prefix_caching = Below(5) != 0;
    scheduler.max_num_seqs = options.num_slots;
    scheduler.max_num_batched_tokens = options.max_num_batched_tokens;
    scheduler.max_queue = 2 * kNumRequests;  // in choices
    engine_ = std::make_unique<RequestEngine>(
        RequestEngine::Options{executor_->limits().context_length, subject.config().vocab_size},
        std::make_unique<BatchScheduler>(scheduler));
  }

  void Run(Counts* counts) {
    while (!arriving_.empty()) {
      Submit(arriving_.back());
      arriving_.pop_back();
      for (uint32_t steps = Below(8); steps > 0; --steps) Step();
      if (Below(12) == 0) engine_->Cancel({0, Below(kNumRequests)}, std::nullopt, std::nullopt, 0);
    }
    while (Step()) {
    }
    const EngineLoad load = engine_->load();
    EXPECT_EQ(load.running + load.waiting, 0u);
    EXPECT_EQ(load.blocks_free + load.blocks_cached, load.blocks_total);
    for (const auto& [choice, length] : next_index_) {
      EXPECT_TRUE(ended_.contains(choice)) << "request " << choice.first;
    }
    ++counts->schedules;
    counts->preemptions += load.preemptions;
    counts->prefix_hit_tokens += load.prefix_hit_tokens;
    counts->rows += rows_;
    counts->tokens += tokens_;
  }

 private:
  using ChoiceKey = std::pair<uint32_t, uint32_t>;  // request, choice

  uint32_t Below(uint32_t end) { return static_cast<uint32_t>(random_() % end); }

  void Submit(uint32_t i) {
    EngineRequest request = subject_.request(i);
    for (uint32_t choice = 0; choice < request.n; ++choice) {
      std::vector<TokenId> emitted;
      if (Below(4) == 0) {  // as if it had begun elsewhere
        emitted = subject_.alone(i, choice).output;
        emitted.resize(Below(static_cast<uint32_t>(emitted.size())));
      }
      next_index_[{i, choice}] = static_cast<uint32_t>(emitted.size());
      request.emitted.push_back(std::move(emitted));
    }
    EXPECT_EQ(engine_->Submit(std::move(request), 0), absl::OkStatus());
  }

  bool Step() {
    if (!engine_->Plan(0, &plan_)) {
      TakeOutput();
      return false;
    }
    for (const SlotFill& fill : plan_.filled) {
      owners_[fill.slot] = {static_cast<uint32_t>(fill.params->seed) - 1000, fill.params->choice};
      const size_t num_shared = fill.num_cached_tokens / executor_->limits().block_size;
      for (size_t block = num_shared; block < fill.blocks.size(); ++block) {
        executor_->kv_store_for_test().FillWithNan(fill.blocks[block]);
      }
    }
    for (const BlockAppend& append : plan_.appended) {
      executor_->kv_store_for_test().FillWithNan(append.block);
    }
    EXPECT_TRUE(executor_->Launch(plan_).ok());
    EXPECT_TRUE(executor_->Collect(&result_).ok());
    engine_->Settle(result_, 0);
    TakeOutput();
    return true;
  }

  void Compare(SlotId slot, uint32_t position, const float* logits) {
    const auto& [request, choice] = owners_.at(slot);
    const auto& expected = subject_.alone(request, choice).logits;
    const auto at = expected.find(position);
    ASSERT_NE(at, expected.end());
    ASSERT_EQ(std::memcmp(at->second.data(), logits, at->second.size() * sizeof(float)), 0)
        << "logits of request " << request << ", choice " << choice << ", position " << position;
    ++rows_;
  }

  void TakeOutput() {
    engine_->TakeOutput(&output_);
    for (const EngineOutput::Entry& entry : output_.entries) {
      const ChoiceKey key = {static_cast<uint32_t>(entry.key.request), entry.choice};
      uint32_t& next = next_index_.at(key);
      EXPECT_EQ(entry.first_index, next);
      for (uint32_t i = 0; i < entry.num_tokens; ++i) {
        EXPECT_EQ(output_.tokens[entry.first_token + i],
                  subject_.alone(key.first, key.second).output.at(next++));
        ++tokens_;
      }
    }
    for (const ChoiceFinish& finish : output_.finishes) {
      const ChoiceKey key = {static_cast<uint32_t>(finish.key.request), finish.choice};
      ended_.insert({key, true});
      if (finish.reason == FinishReason::kLength) {
        EXPECT_EQ(next_index_.at(key), subject_.request(key.first).max_new_tokens);
      } else {
        EXPECT_EQ(finish.status.code(), absl::StatusCode::kCancelled) << finish.status;
      }
    }
  }

  const Subject& subject_;
  std::mt19937_64 random_;
  std::vector<uint32_t> arriving_;
  std::unique_ptr<CpuExecutor> executor_;
  std::unique_ptr<Engine> engine_;
  StepPlan plan_;
  StepResult result_;
  EngineOutput output_;
  std::map<SlotId, ChoiceKey> owners_;
  std::map<ChoiceKey, uint32_t> next_index_;
  std::map<ChoiceKey, bool> ended_;
  uint64_t rows_ = 0;
  uint64_t tokens_ = 0;
};

class ScheduleExactnessTest : public testing::TestWithParam<DType> {};

TEST_P(ScheduleExactnessTest, LogitsAndTokensDependOnTheRequestAlone) {
  Counts counts;
  const uint64_t num_schedules = NumSchedules(QUIRE_DEFAULT_SCHEDULES);
  const std::vector<TestModel> models = TestModels();
  for (size_t model = 0; model < models.size(); ++model) {
    const Subject subject(models[model].config, GetParam());
    for (uint64_t seed = model; seed < num_schedules; seed += models.size()) {
      SCOPED_TRACE(testing::Message() << models[model].name << ", schedule " << seed);
      Schedule(subject, seed).Run(&counts);
      if (HasFailure()) return;
    }
  }
  std::string paths;
  for (const Isa isa : SupportedIsas()) {
    paths += (paths.empty() ? "" : ", ") + std::string(IsaName(isa));
  }
  std::printf(
      "summary: exactness %s on %s: %lu schedules, %lu preemptions, %lu tokens of prefix hits, "
      "%lu rows of logits and %lu tokens compared, all bitwise equal\n",
      std::string(DTypeName(GetParam())).c_str(), paths.c_str(), counts.schedules,
      counts.preemptions, counts.prefix_hit_tokens, counts.rows, counts.tokens);
  // The schedules did what they are for.
  EXPECT_GT(counts.preemptions, counts.schedules);
  EXPECT_GT(counts.prefix_hit_tokens, 10 * counts.schedules);
}

INSTANTIATE_TEST_SUITE_P(DTypes, ScheduleExactnessTest, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

}  // namespace
}  // namespace quire
