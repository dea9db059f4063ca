#ifndef QUIRE_TESTS_WORKER_ENGINE_ENGINE_FIXTURE_H_
#define QUIRE_TESTS_WORKER_ENGINE_ENGINE_FIXTURE_H_

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include "scheduler/batch/batch_scheduler.h"
#include "worker/device/fake/fake_executor.h"
#include "worker/engine/request_engine.h"

namespace quire {

inline constexpr uint32_t kTestVocabulary = 50'000;
inline constexpr uint32_t kTestContext = 512;

inline ExecutorLimits TestLimits(uint32_t num_blocks, uint32_t block_size, uint32_t num_slots,
                                 uint32_t budget, uint32_t steps_in_flight) {
  ExecutorLimits limits;
  limits.num_slots = num_slots;
  limits.max_num_batched_tokens = budget;
  limits.context_length = kTestContext;
  limits.vocabulary_size = kTestVocabulary;
  limits.block_size = block_size;
  limits.num_blocks = num_blocks;
  limits.kv_bytes_per_token = 2;
  limits.max_steps_in_flight = steps_in_flight;
  return limits;
}

inline BatchScheduler::Options SchedulerOptions(const ExecutorLimits& limits) {
  BatchScheduler::Options options;
  options.kv.num_blocks = limits.num_blocks;
  options.kv.block_size = limits.block_size;
  options.max_num_seqs = limits.num_slots;
  options.max_num_batched_tokens = limits.max_num_batched_tokens;
  options.max_queue = 1000;
  options.kv_bytes_per_token = limits.kv_bytes_per_token;
  return options;
}

inline std::unique_ptr<Engine> MakeTestEngine(const BatchScheduler::Options& options) {
  return std::make_unique<RequestEngine>(RequestEngine::Options{kTestContext, kTestVocabulary},
                                         std::make_unique<BatchScheduler>(options));
}

// The tokens that a fake executor makes of a prompt.
inline std::vector<TokenId> ExpectedTokens(std::vector<TokenId> tokens, uint32_t count) {
  const size_t prompt = tokens.size();
  for (uint32_t i = 0; i < count; ++i) {
    tokens.push_back(FakeExecutor::NextToken(tokens, kTestVocabulary));
  }
  return {tokens.begin() + prompt, tokens.end()};
}

// Drives an engine without threads, and collects what comes out by (request, choice). Checks that
// indices are contiguous and that nothing follows a finish.
class EngineDriver {
 public:
  struct Stream {
    std::vector<TokenId> tokens;
    bool finished = false;
    ChoiceFinish finish;
  };

  EngineDriver(std::unique_ptr<Engine> engine, const FakeExecutor::Options& executor)
      : engine_(std::move(engine)), executor_(executor) {}

  Engine& engine() { return *engine_; }
  Micros now = 0;

  // Emitted tokens count as there already.
  absl::Status Submit(const EngineRequest& request) {
    for (uint32_t choice = 0; choice < request.n; ++choice) {
      Stream& stream = streams_[{request.key.request, choice}];
      stream = {};
      if (choice < request.emitted.size()) stream.tokens = request.emitted[choice];
    }
    absl::Status status = engine_->Submit(request, now);
    Take();
    return status;
  }
  void Cancel(uint64_t request) {
    engine_->Cancel({0, request}, std::nullopt, std::nullopt, now);
    Take();
  }

  // False: there was nothing to do.
  bool Step() {
    while (in_flight_ < executor_.limits().max_steps_in_flight && engine_->Plan(now, &plan_)) {
      EXPECT_TRUE(executor_.Launch(plan_).ok());
      ++in_flight_;
    }
    Take();
    if (in_flight_ == 0) return false;
    EXPECT_TRUE(executor_.Collect(&result_).ok());
    --in_flight_;
    engine_->Settle(result_, now);
    Take();
    return true;
  }
  void RunUntilIdle() {
    while (Step()) {
    }
  }

  Stream& stream(uint64_t request, uint32_t choice = 0) { return streams_[{request, choice}]; }
  uint64_t preemptions() const { return preemptions_; }

 private:
  void Take() {
    engine_->TakeOutput(&output_);
    for (const EngineOutput::Entry& entry : output_.entries) {
      Stream& stream = streams_[{entry.key.request, entry.choice}];
      EXPECT_FALSE(stream.finished);
      EXPECT_EQ(entry.first_index, stream.tokens.size());
      for (uint32_t i = 0; i < entry.num_tokens; ++i) {
        stream.tokens.push_back(output_.tokens[entry.first_token + i]);
      }
    }
    for (const ChoiceFinish& finish : output_.finishes) {
      Stream& stream = streams_[{finish.key.request, finish.choice}];
      EXPECT_FALSE(stream.finished);
      stream.finished = true;
      stream.finish = finish;
    }
    preemptions_ += output_.notices.size();
  }

  std::unique_ptr<Engine> engine_;
  FakeExecutor executor_;
  StepPlan plan_;
  StepResult result_;
  EngineOutput output_;
  uint32_t in_flight_ = 0;
  uint64_t preemptions_ = 0;
  std::map<std::pair<uint64_t, uint32_t>, Stream> streams_;
};

inline EngineRequest MakeRequest(uint64_t id, std::vector<TokenId> prompt,
                                 uint32_t max_new_tokens) {
  EngineRequest request;
  request.key = {0, id};
  request.prompt = std::move(prompt);
  request.max_new_tokens = max_new_tokens;
  return request;
}

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_ENGINE_ENGINE_FIXTURE_H_
