// How coordinators share what a worker takes.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/fakes/recording_sink.h"
#include "tests/worker/rpc/test_coordinator.h"
#include "worker/rpc/session_table.h"

namespace quire {
namespace {

using worker::v1::SessionEvent;
using worker::v1::SessionRequest;

// Takes everything: what is refused is refused by the table.
class EndlessInbox final : public EngineInbox {
 public:
  absl::Status PostSubmit(EngineRequest) override { return absl::OkStatus(); }
  void PostCancel(RequestKey, std::optional<uint32_t>, std::optional<uint32_t>) override {}
  void PostRequestLoad() override {}
  uint64_t steps() const override { return 0; }
  Micros SinceProgress() const override { return 0; }
};

class SessionShareTest : public testing::Test {
 protected:
  static constexpr uint32_t kCapacity = 32;

  // A coordinator's connection, driven by hand.
  class Coordinator {
   public:
    Coordinator(SessionTable* table, const std::string& id)
        : sink_(std::make_shared<Sink>()), connection_(table->Connect(sink_)) {
      SessionRequest request;
      request.mutable_open()->set_coordinator_id(id);
      request.mutable_open()->set_protocol(1);
      connection_->OnMessage(request);
    }
    ~Coordinator() { Disconnect(); }
    // False: the request is refused, with a delay to try it again after.
    bool Submit(uint32_t num_choices = 1) {
      SessionRequest request;
      worker::v1::Submit& submit = *request.mutable_submit();
      submit = MakeSubmit(++last_key_, {1}, 5);
      submit.set_request_id("");
      submit.mutable_parameters()->set_n(num_choices);
      sink_->written.clear();
      connection_->OnMessage(request);
      if (sink_->written.empty()) return true;
      const worker::v1::Rejected& rejected = sink_->written.back().rejected();
      EXPECT_EQ(rejected.status_code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
      EXPECT_GT(rejected.retry_after_ms(), 0u);
      return false;
    }
    // Submits until it is refused, `most` times at most. How many were taken.
    uint32_t Fill(uint32_t most = 1000) {
      uint32_t taken = 0;
      while (taken < most && Submit()) ++taken;
      return taken;
    }
    uint64_t last_key() const { return last_key_; }
    // The newest that it was told.
    worker::v1::Load load() const {
      for (auto event = sink_->written.rbegin(); event != sink_->written.rend(); ++event) {
        if (event->has_load()) return event->load();
      }
      return {};
    }
    void Disconnect() {
      if (connection_ != nullptr) connection_->OnClosed(absl::UnavailableError("gone"));
      connection_.reset();
    }

   private:
    using Sink = RecordingSink<SessionEvent>;
    const std::shared_ptr<Sink> sink_;
    std::unique_ptr<SessionTable::Handler> connection_;
    uint64_t last_key_ = 0;
  };

  SessionShareTest() { table_.SetInbox(&inbox_); }
  static SessionTable::Options Options() {
    SessionTable::Options options;
    // A queue too small to keep places for other tenants: these tests have one.
    options.info.mutable_limits()->set_max_num_seqs(kCapacity - 4);
    options.info.mutable_limits()->set_max_queue(4);
    options.orphan_grace = 1;
    options.clock = [] { return Micros{0}; };
    return options;
  }
  // The engine ends a request of that session, as many choices as it has.
  void Finish(uint32_t session, uint64_t key, uint32_t placement, uint32_t num_choices = 1) {
    EngineOutput output;
    for (uint32_t choice = 0; choice < num_choices; ++choice) {
      ChoiceFinish finish;
      finish.key = {session, key};
      finish.attempt = placement;
      finish.choice = choice;
      output.finishes.push_back(finish);
    }
    table_.OnOutput(output);
  }

  EndlessInbox inbox_;
  SessionTable table_{Options()};
};

TEST_F(SessionShareTest, EachIsToldWhatAllHaveAndWhatIsItsOwn) {
  Coordinator a(&table_, "a");
  Coordinator b(&table_, "b");
  a.Fill(5);
  b.Submit(/*num_choices=*/3);
  EngineLoad load;
  load.running = 2;  // the engine has not heard of the rest
  table_.OnLoad(load);
  for (const auto& [coordinator, own] : {std::pair(&a, 5u), std::pair(&b, 3u)}) {
    EXPECT_EQ(coordinator->load().running(), 2u);
    EXPECT_EQ(coordinator->load().waiting(), 6u);
    EXPECT_EQ(coordinator->load().own_sequences(), own);
  }
}

TEST_F(SessionShareTest, OneAloneMayHaveEverything) {
  Coordinator a(&table_, "a");
  EXPECT_EQ(a.Fill(2 * kCapacity), kCapacity);
}

TEST_F(SessionShareTest, OneOfTwoLeavesAQuarterToTheOther) {
  Coordinator a(&table_, "a");
  Coordinator b(&table_, "b");
  EXPECT_EQ(a.Fill(), kCapacity * 3 / 4);
  EXPECT_EQ(b.Fill(kCapacity / 4), kCapacity / 4);
  EXPECT_FALSE(a.Submit());
}

TEST_F(SessionShareTest, OneThatHasNothingMayHaveOneRequestOfAnySize) {
  Coordinator a(&table_, "a");
  Coordinator b(&table_, "b");
  Coordinator c(&table_, "c");
  Coordinator d(&table_, "d");
  Coordinator e(&table_, "e");
  ASSERT_EQ(b.Fill(20), 20u);
  EXPECT_TRUE(a.Submit(/*num_choices=*/8)) << "more than a fifth, and into the last quarter";
  EXPECT_FALSE(a.Submit());
}

TEST_F(SessionShareTest, WhatComesFreeGoesToWhoHasLess) {
  Coordinator a(&table_, "a");
  Coordinator b(&table_, "b");
  ASSERT_EQ(a.Fill(), 24u);  // placements 0 to 23
  ASSERT_EQ(b.Fill(8), 8u);
  ASSERT_FALSE(a.Submit());
  for (uint32_t i = 0; i < 8; ++i) {
    Finish(/*session=*/0, i + 1, i);
    EXPECT_FALSE(a.Submit()) << "it has more than half";
    EXPECT_TRUE(b.Submit());
  }
  // Each has half by now.
  Finish(/*session=*/0, 9, 8);
  EXPECT_TRUE(a.Submit());
}

TEST_F(SessionShareTest, ChoicesCountEachUntilTheyEnd) {
  Coordinator a(&table_, "a");
  Coordinator b(&table_, "b");
  uint32_t taken = 0;
  while (a.Submit(/*num_choices=*/5)) ++taken;
  EXPECT_EQ(taken, 4u) << "20 of 24: five more do not fit";
  EXPECT_TRUE(a.Submit(4));
  EXPECT_FALSE(a.Submit());
  Finish(/*session=*/0, 1, 0, 5);
  EXPECT_TRUE(a.Submit(5));
  EXPECT_FALSE(a.Submit());
}

TEST_F(SessionShareTest, OneThatIsGoneSharesNothing) {
  Coordinator a(&table_, "a");
  Coordinator b(&table_, "b");
  EXPECT_EQ(b.Fill(4), 4u);
  EXPECT_EQ(a.Fill(), 20u);
  b.Disconnect();
  EXPECT_TRUE(a.Submit());
  Coordinator c(&table_, "c");  // what b left behind counts as long as it lives
  EXPECT_FALSE(a.Submit());
  EXPECT_TRUE(c.Submit());
}

TEST_F(SessionShareTest, ThreeHaveAThirdEach) {
  Coordinator a(&table_, "a");
  Coordinator b(&table_, "b");
  Coordinator c(&table_, "c");
  EXPECT_EQ(b.Fill(11), 11u) << "more than a third, while there is much left";
  EXPECT_EQ(a.Fill(), 13u);
  EXPECT_FALSE(b.Submit());
  EXPECT_EQ(c.Fill(8), 8u);
}

}  // namespace
}  // namespace quire
