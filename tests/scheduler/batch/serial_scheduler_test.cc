#include "scheduler/batch/serial_scheduler.h"

#include <memory>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace quire {
namespace {

class SerialSchedulerTest : public testing::Test {
 protected:
  SequenceSpec Spec(SequenceTag tag, uint32_t prompt, uint32_t max_output) {
    SequenceSpec spec;
    spec.tag = tag;
    spec.tokens.assign(prompt, 5);
    spec.num_prompt_tokens = prompt;
    spec.max_output_tokens = max_output;
    spec.params = std::make_shared<SamplingParams>();
    return spec;
  }
  // Plans, and settles with `token`. Returns the number of positions run, 0 when there is no step.
  uint32_t Step(TokenId token = 1) {
    events_.Clear();
    if (!scheduler_.Plan(0, &plan_, &events_)) return 0;
    StepResult result;
    result.step = plan_.step;
    result.outputs.push_back({.slot = 0, .first_token = 0, .num_tokens = 1});
    result.tokens.push_back(token);
    result.kv = {.reserved = 100, .used = 10};
    scheduler_.Settle(result, 0, &events_);
    return plan_.num_tokens;
  }

  SerialScheduler scheduler_{/*max_queue=*/2, /*kv_bytes_per_token=*/10};
  StepPlan plan_;
  SequenceEvents events_;
};

TEST_F(SerialSchedulerTest, RunsOneAfterTheOtherWholePromptFirst) {
  ASSERT_TRUE(scheduler_.Add(Spec(0, 6, 2), 0).ok());
  ASSERT_TRUE(scheduler_.Add(Spec(1, 3, 1), 0).ok());
  EXPECT_EQ(Step(), 6u);
  EXPECT_EQ(Step(), 1u);
  ASSERT_EQ(events_.finishes.size(), 1u);
  EXPECT_EQ(events_.finishes[0].tag, 0u);
  EXPECT_EQ(events_.finishes[0].usage.kv_reserved_bytes, 100u);
  EXPECT_EQ(events_.finishes[0].usage.kv_max_unused_tokens, 9u);
  EXPECT_EQ(Step(), 3u);
  EXPECT_EQ(plan_.freed, std::vector<SlotId>{0});
  EXPECT_EQ(events_.finishes[0].tag, 1u);
  EXPECT_EQ(Step(), 0u);
}

TEST_F(SerialSchedulerTest, RefusesBeyondItsQueue) {
  // The first will run in the next step; two more may wait behind it.
  for (SequenceTag tag = 0; tag < 3; ++tag) {
    ASSERT_TRUE(scheduler_.Add(Spec(tag, 1, 2), 0).ok());
  }
  EXPECT_EQ(scheduler_.Add(Spec(3, 1, 1), 0).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Step(), 1u);
  EXPECT_EQ(scheduler_.Add(Spec(3, 1, 1), 0).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(SerialSchedulerTest, AFaultNamesItsStage) {
  ASSERT_TRUE(scheduler_.Add(Spec(0, 4, 9), 0).ok());
  ASSERT_TRUE(scheduler_.Plan(0, &plan_, &events_));
  StepResult result;
  result.step = plan_.step;
  result.outputs.push_back({.fault = NumericFault::kLogits});
  scheduler_.Settle(result, 0, &events_);
  ASSERT_EQ(events_.finishes.size(), 1u);
  EXPECT_EQ(events_.finishes[0].status,
            absl::InternalError("numbers were not finite after the logits, at output token 0"));
}

TEST_F(SerialSchedulerTest, AnAbortWhileAStepRunsDropsItsToken) {
  ASSERT_TRUE(scheduler_.Add(Spec(0, 4, 9), 0).ok());
  ASSERT_TRUE(scheduler_.Add(Spec(1, 2, 9), 0).ok());
  ASSERT_TRUE(scheduler_.Plan(0, &plan_, &events_));
  scheduler_.Abort(0, absl::CancelledError(""), std::nullopt, 0, &events_);
  ASSERT_EQ(events_.finishes.size(), 1u);
  StepPlan second;
  EXPECT_FALSE(scheduler_.Plan(0, &second, &events_));
  StepResult result;
  result.step = plan_.step;
  result.outputs.push_back({.num_tokens = 1});
  result.tokens.push_back(3);
  scheduler_.Settle(result, 0, &events_);
  EXPECT_TRUE(events_.tokens.empty());
  EXPECT_EQ(Step(), 2u);
}

TEST_F(SerialSchedulerTest, QueueTimeoutAndStop) {
  SequenceSpec stops = Spec(0, 1, 9);
  auto params = std::make_shared<SamplingParams>();
  params->stop_token_ids = {7};
  stops.params = params;
  SequenceSpec late = Spec(1, 1, 1);
  late.queue_deadline = 0;
  ASSERT_TRUE(scheduler_.Add(std::move(stops), 0).ok());
  ASSERT_TRUE(scheduler_.Add(std::move(late), 0).ok());
  EXPECT_EQ(Step(7), 1u);
  ASSERT_EQ(events_.finishes.size(), 2u);
  EXPECT_EQ(events_.finishes[0].status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(events_.finishes[1].stop_token, 7u);
}

}  // namespace
}  // namespace quire
