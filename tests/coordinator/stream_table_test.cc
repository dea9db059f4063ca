#include "coordinator/stream/stream_table.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include "common/clock.h"
#include "common/rpc_status.h"
#include "coordinator/stream/timer_queue.h"

namespace quire {
namespace {

class StreamTableTest : public testing::Test {
 protected:
  explicit StreamTableTest(size_t max_open = 4) : table_(max_open) {
    context_.timers = &timers_;
    context_.on_end = [this](RequestStream& stream, const RequestRecord& record) {
      table_.OnEnd(stream, record.status);
    };
  }
  ~StreamTableTest() override { table_.EndAll(absl::UnavailableError("the test is over")); }

  absl::StatusOr<StreamTable::Found> Find(const std::string& id, const std::string& tenant = "") {
    return table_.FindOrMake(
        id, "body of " + tenant,
        [&] { return std::make_shared<RequestStream>(1, id, "body of " + tenant, context_); },
        tenant);
  }
  // Opens `count` requests, all of which there is room for.
  void Open(size_t count, const std::string& tenant = "") {
    for (size_t i = 0; i < count; ++i) {
      auto found = Find(tenant + std::to_string(open_.size()), tenant);
      ASSERT_TRUE(found.ok()) << found.status();
      open_.push_back(*std::move(found));
    }
  }

  TimerQueue timers_;
  StreamTable table_;
  RequestStream::Context context_;
  std::vector<StreamTable::Found> open_;
};

class SmallTableTest : public StreamTableTest {
 protected:
  SmallTableTest() : StreamTableTest(2) {}
};

TEST_F(SmallTableTest, ACallCountsUntilItIsOver) {
  auto first = Find("a");
  auto second = Find("b");
  second->stream->End(absl::OkStatus());
  EXPECT_EQ(table_.num_live(), 1u);
  // The second has ended, but its client may not have read that.
  const absl::Status full = Find("c").status();
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_TRUE(RetryDelayOf(full).has_value());
  EXPECT_TRUE(Find("a").ok()) << "a call may take a request over all the same";
  second->slot.reset();
  EXPECT_TRUE(Find("c").ok());
}

TEST_F(SmallTableTest, WhatCountsAgainstARequestCountsAgainstItsRepetition) {
  auto first = Find("a");
  first->stream->TakeLosses({1, 2});
  first->stream->End(absl::UnavailableError("no worker"));
  first->slot.reset();
  auto again = Find("another id of the same body");
  EXPECT_EQ(again->stream->losses(), (std::vector<int64_t>{1, 2}));
  EXPECT_TRUE(Find("b")->stream->losses().empty()) << "one repetition, not all";
  again->stream->End(absl::OkStatus());
  EXPECT_TRUE(Find("c")->stream->losses().empty());
}

TEST_F(SmallTableTest, ARequestThatRanElsewhereIsLetInAsOneThatIsTakenOver) {
  Open(2);
  EXPECT_TRUE(absl::IsResourceExhausted(Find("new").status()));
  const auto make = [this] { return std::make_shared<RequestStream>(1, "r", "body", context_); };
  EXPECT_TRUE(table_.FindOrMake("r", "body", make, "", /*is_resumed=*/true).ok());
}

TEST_F(StreamTableTest, WithoutTenantsAllSlotsCanBeUsed) {
  Open(4);
  EXPECT_TRUE(absl::IsResourceExhausted(Find("one more").status()));
}

TEST_F(StreamTableTest, ATenantLeavesSlotsToOthers) {
  Open(3, "greedy");
  const absl::Status full = Find("one more", "greedy").status();
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_TRUE(RetryDelayOf(full).has_value());
  Open(1, "modest");
  open_.clear();
  Open(3);
  EXPECT_TRUE(absl::IsResourceExhausted(Find("one more").status())) << "no tenant is one, too";
  Open(1, "modest");
}

TEST_F(StreamTableTest, ATenantsRequestIsFoundByItAlone) {
  Open(1, "t");
  Open(1);
  EXPECT_EQ(table_.FindLive("t0"), nullptr);
  EXPECT_EQ(table_.FindLive("t0", "other"), nullptr);
  EXPECT_NE(table_.FindLive("t0", "t"), nullptr);
  EXPECT_NE(table_.FindLive("1"), nullptr);
  EXPECT_NE(table_.FindLive("1", "t"), nullptr);
}

TEST_F(StreamTableTest, HeldBytesAreBounded) {
  const size_t half = StreamTable::kMaxHeldBytes / 2;
  auto first = table_.HoldBytes("", half);
  auto second = table_.HoldBytes("", half);
  ASSERT_TRUE(first.ok() && second.ok());
  const absl::Status full = table_.HoldBytes("", 1).status();
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_TRUE(RetryDelayOf(full).has_value());
  second->reset();
  EXPECT_TRUE(table_.HoldBytes("", half).ok());
  Open(1, "t");
  EXPECT_FALSE(table_.HoldBytes("", half).ok()) << "three quarters for one";
  EXPECT_TRUE(table_.HoldBytes("t", half).ok());
}

TEST_F(StreamTableTest, WaitsUntilEveryClientHasReadAll) {
  EXPECT_TRUE(table_.WaitUntilRead(SteadyMicros()));
  Open(1);
  open_[0].stream->End(absl::OkStatus());
  EXPECT_TRUE(table_.WaitUntilIdle(SteadyMicros()));
  EXPECT_FALSE(table_.WaitUntilRead(SteadyMicros() + 1'000));
  timers_.ScheduleAfter(1'000, [slot = std::move(open_[0].slot)]() mutable { slot.reset(); });
  EXPECT_TRUE(table_.WaitUntilRead(SteadyMicros() + 60'000'000));
}

}  // namespace
}  // namespace quire
