#include "tests/worker/device/exactness/engine_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "scheduler/batch/batch_scheduler.h"
#include "tests/worker/device/exactness/same_bits.h"
#include "worker/engine/request_engine.h"

namespace quire {
namespace {

constexpr int kMostReportedRows = 8;  // of a schedule
constexpr uint32_t kMostShortTokens = 160;

using ChoiceKey = std::pair<uint32_t, uint32_t>;  // request, choice

int NumFailures() {
  return testing::UnitTest::GetInstance()->current_test_info()->result()->total_part_count();
}

// The engine over the executor under test, and what it has done so far.
class Run {
 public:
  Run(const EngineSubject& subject, const EngineSchedule& schedule, ExecutorUnderTest& executor,
      TestRandom& random)
      : subject_(subject),
        schedule_(schedule),
        executor_(executor),
        limits_(executor.limits()),
        random_(random) {
    for (BlockId block = 0; block < schedule.num_blocks; ++block) executor.FillWithNan(block);
    if (schedule.observes_logits) {
      executor.set_logits_observer([this](SlotId slot, uint32_t position, const float* logits) {
        CompareLogits(slot, position, logits);
      });
    }
    BatchScheduler::Options scheduler;
    scheduler.kv.num_blocks = schedule.num_blocks;
    scheduler.kv.block_size = limits_.block_size;
    scheduler.kv.enable_prefix_caching = schedule.prefix_caching;
    scheduler.max_num_seqs = schedule.num_slots;
    scheduler.max_num_batched_tokens = schedule.max_num_batched_tokens;
    scheduler.max_queue = 2 * subject.num_requests();  // in choices
    engine_ = std::make_unique<RequestEngine>(
        RequestEngine::Options{limits_.context_length, limits_.vocabulary_size},
        std::make_unique<BatchScheduler>(scheduler));
  }
  ~Run() { executor_.set_logits_observer(nullptr); }

  void ToTheEnd(ExactnessCounts* counts) {
    std::vector<uint32_t> arriving = schedule_.arrivals;
    bool follows = false;
    while (!arriving.empty()) {
      const bool followed = std::exchange(follows, subject_.source(arriving.back()).has_value());
      if (follows && !followed && schedule_.settles_before_follow_ups) RunUntilIdle();
      Submit(arriving.back());
      arriving.pop_back();
      for (uint32_t steps = Below(random_, schedule_.max_gap_steps); steps > 0; --steps) Step();
      if (Below(random_, 12) == 0) {
        engine_->Cancel({0, Below(random_, subject_.num_requests())}, std::nullopt, std::nullopt,
                        0);
      }
    }
    RunUntilIdle();
    FreeSlots();
    const EngineLoad load = engine_->load();
    EXPECT_EQ(load.running + load.waiting, 0u);
    EXPECT_EQ(load.blocks_free + load.blocks_cached, load.blocks_total);
    for (const auto& [choice, length] : next_index_) {
      EXPECT_TRUE(ended_.contains(choice)) << "request " << choice.first;
    }
    ++counts->schedules;
    counts->preemptions += load.preemptions;
    counts->prefix_hit_tokens += load.prefix_hit_tokens;
    counts->generated_hit_tokens += generated_hit_tokens_;
    counts->rows += rows_;
    counts->tokens += tokens_;
    counts->logprobs += logprobs_;
    counts->most_running = std::max(counts->most_running, most_running_);
  }

 private:
  void Submit(uint32_t i) {
    EngineRequest request = subject_.request(i);
    for (uint32_t choice = 0; choice < request.n; ++choice) {
      std::vector<TokenId> emitted;
      if (Below(random_, 4) == 0) {  // as if it had begun elsewhere
        emitted = subject_.alone(i, choice).output;
        emitted.resize(Below(random_, subject_.output_length(i, choice)));
      }
      next_index_[{i, choice}] = static_cast<uint32_t>(emitted.size());
      request.emitted.push_back(std::move(emitted));
    }
    EXPECT_EQ(engine_->Submit(std::move(request), 0), absl::OkStatus());
  }

  void RunUntilIdle() {
    while (Step()) {
    }
  }

  // As EngineLoop does it. False: nothing is left to do before the next Submit.
  bool Step() {
    while (in_flight_ < limits_.max_steps_in_flight && engine_->Plan(0, &plan_)) {
      TakePlan();
      executor_.Launch(plan_);
      ++in_flight_;
    }
    const bool collects = in_flight_ > 0;
    if (collects) {
      executor_.Collect(&result_);
      --in_flight_;
      engine_->Settle(result_, 0);
    }
    TakeOutput();
    return collects;
  }

  // Notes who has which slot as of this plan, which is when the observer is told of its rows, and
  // makes the blocks that sequences get NaN. Earlier steps may still be in flight: the executor
  // fills in order.
  void TakePlan() {
    for (const SlotId slot : plan_.freed) owners_.erase(slot);
    for (const SlotFill& fill : plan_.filled) {
      const ChoiceKey owner = {static_cast<uint32_t>(fill.params->seed) - 1000,
                               fill.params->choice};
      owners_[fill.slot] = owner;
      CountGeneratedHits(owner, fill);
      const size_t num_shared = fill.num_cached_tokens / limits_.block_size;
      for (size_t block = num_shared; block < fill.blocks.size(); ++block) {
        executor_.FillWithNan(fill.blocks[block]);
      }
    }
    for (const BlockAppend& append : plan_.appended) executor_.FillWithNan(append.block);
    most_running_ = std::max(most_running_, static_cast<uint32_t>(plan_.runs.size()));
  }

  // When a follow-up first runs, what it finds beyond its source's prompt is of the source's
  // output.
  void CountGeneratedHits(const ChoiceKey& owner, const SlotFill& fill) {
    if (!has_run_.insert(owner).second) return;
    const std::optional<uint32_t> source = subject_.source(owner.first);
    if (!source.has_value()) return;
    const size_t prompt = subject_.request(*source).prompt.size();
    if (fill.num_cached_tokens > prompt) generated_hit_tokens_ += fill.num_cached_tokens - prompt;
  }

  // Tells the executor of the slots that were freed since the last plan.
  void FreeSlots() {
    plan_.Clear();
    for (const auto& [slot, owner] : owners_) plan_.freed.push_back(slot);
    owners_.clear();
    executor_.Launch(plan_);
    executor_.Collect(&result_);
  }

  void CompareLogits(SlotId slot, uint32_t position, const float* logits) {
    ++rows_;
    const auto& [request, choice] = owners_.at(slot);
    const auto& expected = subject_.alone(request, choice).logits;
    const auto at = expected.find(position);
    if (at != expected.end() && SameBits(at->second, logits)) return;
    if (++different_rows_ > kMostReportedRows) return;
    uint32_t run = 0;
    for (const SlotRun& other : plan_.runs) run = other.slot == slot ? other.num_tokens : run;
    ADD_FAILURE() << "logits of request " << request << ", choice " << choice << ", position "
                  << position << " (prompt of " << subject_.request(request).prompt.size()
                  << ") in a run of " << run << " and a step of " << plan_.runs.size()
                  << " runs and " << plan_.num_tokens << " positions: "
                  << (at == expected.end() ? "unexpected" : Difference(at->second, logits));
  }

  void TakeOutput() {
    engine_->TakeOutput(&output_);
    for (const EngineOutput::Entry& entry : output_.entries) {
      const ChoiceKey key = {static_cast<uint32_t>(entry.key.request), entry.choice};
      uint32_t& next = next_index_.at(key);
      EXPECT_EQ(entry.first_index, next);
      for (uint32_t i = 0; i < entry.num_tokens; ++i) {
        EXPECT_EQ(output_.tokens[entry.first_token + i],
                  subject_.alone(key.first, key.second).output.at(next))
            << "token " << next << " of request " << key.first << ", choice " << key.second;
        ++next;
        ++tokens_;
      }
    }
    for (const EngineOutput::Logprobs& entry : output_.logprobs) {
      const auto request = static_cast<uint32_t>(entry.key.request);
      const auto& expected = subject_.alone(request, entry.choice).logprobs;
      for (size_t i = 0; i < entry.output.size(); ++i) {
        EXPECT_TRUE(SameBits(entry.output[i], expected.at(entry.first_index + i)))
            << "log-probabilities of token " << entry.first_index + i << " of request " << request;
        ++logprobs_;
      }
    }
    for (const ChoiceFinish& finish : output_.finishes) {
      const ChoiceKey key = {static_cast<uint32_t>(finish.key.request), finish.choice};
      ended_.insert(key);
      if (finish.reason == FinishReason::kAborted) {
        EXPECT_EQ(finish.status.code(), absl::StatusCode::kCancelled) << finish.status;
      } else {
        EXPECT_EQ(finish.reason == FinishReason::kStop, subject_.stops(key.first, key.second));
        EXPECT_EQ(next_index_.at(key), subject_.output_length(key.first, key.second));
      }
    }
  }

  const EngineSubject& subject_;
  const EngineSchedule& schedule_;
  ExecutorUnderTest& executor_;
  const ExecutorLimits& limits_;
  TestRandom& random_;
  std::unique_ptr<Engine> engine_;
  StepPlan plan_;
  StepResult result_;
  EngineOutput output_;
  uint32_t in_flight_ = 0;
  std::map<SlotId, ChoiceKey> owners_;  // slots that the executor holds
  std::set<ChoiceKey> has_run_;
  std::map<ChoiceKey, uint32_t> next_index_;  // into the choice's output
  std::set<ChoiceKey> ended_;
  uint64_t generated_hit_tokens_ = 0;
  uint64_t rows_ = 0;
  int different_rows_ = 0;
  uint64_t tokens_ = 0;
  uint64_t logprobs_ = 0;
  uint32_t most_running_ = 0;
};

}  // namespace

std::vector<uint32_t> RandomArrivals(const EngineSubject& subject, TestRandom& random) {
  std::vector<uint32_t> arrivals;
  for (uint32_t i = 0; i < subject.num_requests(); ++i) {
    if (Below(random, 2) == 0) arrivals.push_back(i);
  }
  std::shuffle(arrivals.begin(), arrivals.end(), random);
  return arrivals;
}

EngineSchedule RandomEngineSchedule(const EngineSubject& subject, const ExecutorLimits& limits,
                                    TestRandom& random) {
  const bool is_crowd = Below(random, 4) == 0;
  const bool are_all_short = !is_crowd && Below(random, 2) == 0;
  const uint32_t quarters = is_crowd ? 4 : 1 + Below(random, 4);
  EngineSchedule schedule;
  uint32_t longest = 1;     // blocks
  uint32_t all_blocks = 0;  // if nothing is shared
  for (uint32_t i = 0; i < subject.num_requests(); ++i) {
    const EngineRequest& request = subject.request(i);
    const uint32_t tokens = static_cast<uint32_t>(request.prompt.size()) + request.max_new_tokens;
    if (Below(random, 4) >= quarters || (are_all_short && tokens > kMostShortTokens)) continue;
    schedule.arrivals.push_back(i);
    longest = std::max(longest, tokens / limits.block_size + 1);
    all_blocks += request.n * (tokens / limits.block_size + 1);
  }
  std::shuffle(schedule.arrivals.begin(), schedule.arrivals.end(), random);
  std::stable_partition(schedule.arrivals.begin(), schedule.arrivals.end(),
                        [&](uint32_t i) { return subject.source(i).has_value(); });
  schedule.max_gap_steps = is_crowd || Below(random, 2) == 0 ? 1 : 2 + Below(random, 7);
  schedule.settles_before_follow_ups = Below(random, 2) == 0;

  schedule.num_slots =
      is_crowd ? limits.num_slots : 1 + Below(random, std::min(12u, limits.num_slots));
  const uint32_t rest = limits.max_num_batched_tokens - schedule.num_slots + 1;
  const uint32_t most_more = Below(random, 2) == 0 ? rest : std::min(80u, rest);
  schedule.max_num_batched_tokens = schedule.num_slots + Below(random, most_more);
  const uint32_t blocks =
      is_crowd ? all_blocks >> Below(random, 4) : longest + Below(random, longest);
  schedule.num_blocks = std::clamp(blocks, longest, limits.num_blocks);
  schedule.prefix_caching = Below(random, 5) != 0;
  return schedule;
}

bool RunEngineSchedule(const EngineSubject& subject, const EngineSchedule& schedule,
                       ExecutorUnderTest& executor, TestRandom& random, ExactnessCounts* counts) {
  const int failures_before = NumFailures();
  Run(subject, schedule, executor, random).ToTheEnd(counts);
  return NumFailures() == failures_before;
}

}  // namespace quire
