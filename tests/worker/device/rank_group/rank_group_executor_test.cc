#include "worker/device/rank_group/rank_group_executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/device/rank_group/rank_rendezvous.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// What a rank is told to do wrong, and at which step.
struct Fault {
  uint64_t step = 0;  // 0: never
  enum Kind { kLaunchFails, kCollectFails, kOtherToken } kind = kLaunchFails;
};

// A rank whose every step meets the others in Launch, as gathered activations do, and samples the
// number of its step.
class FakeRank final : public ModelExecutor {
 public:
  FakeRank(RankRendezvous& rendezvous, Fault fault) : rendezvous_(rendezvous), fault_(fault) {
    limits_.num_blocks = 10;
    limits_.kv_bytes_per_token = 3;
    limits_.max_steps_in_flight = 2;
  }

  const ExecutorLimits& limits() const override { return limits_; }
  absl::Status Launch(const StepPlan& plan) override {
    if (Meets(Fault::kLaunchFails, plan.step)) return absl::InternalError("the device is gone");
    launched_.push_back(plan.step);
    return rendezvous_.Arrive();
  }
  absl::Status Collect(StepResult* result) override {
    result->Clear();
    result->step = launched_.front();
    launched_.pop_front();
    if (Meets(Fault::kCollectFails, result->step)) return absl::InternalError("the device is gone");
    const bool other = Meets(Fault::kOtherToken, result->step);
    result->tokens = {static_cast<TokenId>(other ? 999 : result->step)};
    return rendezvous_.Arrive();
  }

 private:
  bool Meets(Fault::Kind kind, uint64_t step) const {
    return fault_.kind == kind && fault_.step == step;
  }

  RankRendezvous& rendezvous_;
  const Fault fault_;
  ExecutorLimits limits_;
  std::deque<uint64_t> launched_;
};

class RankGroupExecutorTest : public testing::Test {
 protected:
  static constexpr uint32_t kRanks = 3;

  std::unique_ptr<RankGroupExecutor> Make(uint32_t faulty_rank, Fault fault) {
    auto group = RankGroupExecutor::Create(
        kRanks,
        [&](uint32_t rank) -> absl::StatusOr<std::unique_ptr<ModelExecutor>> {
          return std::make_unique<FakeRank>(rendezvous_, rank == faulty_rank ? fault : Fault());
        },
        [this](const absl::Status& why) {
          ++num_aborts_;
          rendezvous_.Abort(why);
        });
    EXPECT_TRUE(group.ok()) << group.status();
    return *std::move(group);
  }

  // Steps 1, 2, 3 ... with two in flight, until one fails: its status.
  static absl::Status RunUntilError(RankGroupExecutor& group, std::vector<TokenId>* tokens) {
    StepResult result;
    StepPlan plan;
    for (plan.step = 1; plan.step < 100; ++plan.step) {
      if (absl::Status status = group.Launch(plan); !status.ok()) return status;
      if (plan.step == 1) continue;
      if (absl::Status status = group.Collect(&result); !status.ok()) return status;
      tokens->push_back(result.tokens.at(0));
    }
    return absl::OkStatus();
  }

  RankRendezvous rendezvous_{kRanks};
  std::atomic<int> num_aborts_ = 0;
};

TEST_F(RankGroupExecutorTest, EveryRankRunsEveryStepAndRankZeroAnswers) {
  const auto group = Make(0, {});
  EXPECT_EQ(group->limits().kv_bytes_per_token, 9u);
  EXPECT_EQ(group->limits().num_blocks, 10u);
  std::vector<TokenId> tokens;
  EXPECT_TRUE(RunUntilError(*group, &tokens).ok());
  ASSERT_EQ(tokens.size(), 98u);
  EXPECT_EQ(tokens.front(), 1);
  EXPECT_EQ(tokens.back(), 98);
  EXPECT_EQ(num_aborts_, 0);
}

TEST_F(RankGroupExecutorTest, ALostRankEndsTheWaitOfTheOthersAndIsNamed) {
  for (const Fault::Kind kind : {Fault::kLaunchFails, Fault::kCollectFails}) {
    for (uint32_t faulty = 0; faulty < kRanks; ++faulty) {
      RankRendezvous rendezvous(kRanks);
      auto group = RankGroupExecutor::Create(
          kRanks,
          [&](uint32_t rank) -> absl::StatusOr<std::unique_ptr<ModelExecutor>> {
            return std::make_unique<FakeRank>(rendezvous,
                                              rank == faulty ? Fault{5, kind} : Fault());
          },
          [&](const absl::Status& why) { rendezvous.Abort(why); });
      ASSERT_TRUE(group.ok());
      std::vector<TokenId> tokens;
      EXPECT_EQ(RunUntilError(**group, &tokens),
                absl::InternalError(absl::StrCat("rank ", faulty, ": the device is gone")));
      EXPECT_EQ(tokens.size(), kind == Fault::kLaunchFails ? 3u : 4u);
    }
  }
}

// A rank that is slow to come back, as from a kernel that NCCL has to end.
class SlowToReturn final : public ModelExecutor {
 public:
  SlowToReturn(std::unique_ptr<ModelExecutor> rank, std::promise<void>& entered,
               std::shared_future<void> may_return)
      : rank_(std::move(rank)), entered_(entered), may_return_(std::move(may_return)) {}
  const ExecutorLimits& limits() const override { return rank_->limits(); }
  absl::Status Launch(const StepPlan& plan) override { return rank_->Launch(plan); }
  absl::Status Collect(StepResult* result) override {
    entered_.set_value();
    may_return_.wait();
    return absl::InternalError("the group was aborted");
  }

 private:
  const std::unique_ptr<ModelExecutor> rank_;
  std::promise<void>& entered_;
  const std::shared_future<void> may_return_;
};

TEST_F(RankGroupExecutorTest, CollectTellsTheErrorBeforeTheOtherRanksAreBack) {
  auto group = Make(2, {1, Fault::kCollectFails});
  std::promise<void> entered;
  std::promise<void> may_return;
  group->WrapRankForTest(0, [&](std::unique_ptr<ModelExecutor> rank) {
    return std::make_unique<SlowToReturn>(std::move(rank), entered, may_return.get_future());
  });
  StepPlan plan;
  plan.step = 1;
  ASSERT_TRUE(group->Launch(plan).ok());
  StepResult result;
  EXPECT_EQ(group->Collect(&result), absl::InternalError("rank 2: the device is gone"));
  entered.get_future().wait();
  may_return.set_value();
  group.reset();  // waits for rank 0
}

TEST_F(RankGroupExecutorTest, ARankWithOtherTokensIsAnError) {
  const auto group = Make(2, {4, Fault::kOtherToken});
  std::vector<TokenId> tokens;
  const absl::Status status = RunUntilError(*group, &tokens);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("step 4: rank 2 sampled other tokens"));
  EXPECT_THAT(tokens, ElementsAre(1, 2, 3));
  EXPECT_EQ(num_aborts_, 1);
}

TEST_F(RankGroupExecutorTest, ARankThatCannotStartEndsTheStartOfAll) {
  const auto group = RankGroupExecutor::Create(
      kRanks,
      [&](uint32_t rank) -> absl::StatusOr<std::unique_ptr<ModelExecutor>> {
        if (rank == 1) return absl::ResourceExhaustedError("no memory for the weights");
        if (absl::Status status = rendezvous_.Arrive(); !status.ok()) return status;
        return std::make_unique<FakeRank>(rendezvous_, Fault());
      },
      [this](const absl::Status& why) { rendezvous_.Abort(why); });
  EXPECT_EQ(group.status(), absl::ResourceExhaustedError("rank 1: no memory for the weights"));
}

TEST(RankGroupOfOneTest, IsItsOnlyRank) {
  RankRendezvous rendezvous(1);
  const auto group = RankGroupExecutor::Create(
      1,
      [&](uint32_t) -> absl::StatusOr<std::unique_ptr<ModelExecutor>> {
        return std::make_unique<FakeRank>(rendezvous, Fault{2, Fault::kLaunchFails});
      },
      [](const absl::Status&) {});
  ASSERT_TRUE(group.ok());
  StepPlan plan;
  plan.step = 1;
  EXPECT_TRUE((*group)->Launch(plan).ok());
  plan.step = 2;
  EXPECT_EQ((*group)->Launch(plan), absl::InternalError("the device is gone"));
}

}  // namespace
}  // namespace quire
