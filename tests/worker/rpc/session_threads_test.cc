// Many coordinators, each on threads of its own, that lose their connections, reclaim, submit again
// and cancel: with ThreadSanitizer this is the proof that sessions and engine loop share nothing
// unguarded.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "tests/worker/rpc/session_fixture.h"

namespace quire {
namespace {

using worker::v1::Rejected;
using worker::v1::Submit;

class RestlessCoordinator {
 public:
  RestlessCoordinator(SessionTable* table, uint32_t number)
      : number_(number),
        random_(number),
        coordinator_(table, "coordinator " + std::to_string(number)) {}

  void Run() {
    Connect();
    for (uint64_t round = 0; round < 25; ++round) {
      std::vector<Submit> submits;
      for (uint64_t i = 0; i < 4; ++i) submits.push_back(NewSubmit(round * 10 + i));
      for (const Submit& submit : submits) coordinator_.Submit(submit);
      if (round % 3 == 1) coordinator_.Cancel(submits.back().key());
      if (round % 2 == 1) LoseAndReclaim(submits);
      for (Submit& submit : submits) Finish(submit);
    }
  }

 private:
  // However many loads come while it gets no processor, it does not count as lost.
  void Connect() { coordinator_.Connect(/*max_messages=*/1 << 20); }

  Submit NewSubmit(uint64_t key) {
    const std::vector<TokenId> prompt = {number_, TokenId(key), 3, 4, 5};
    Submit submit = MakeSubmit(key, prompt, 1 + random_() % 60);
    submit.set_request_id("");
    submit.mutable_parameters()->set_n(1 + random_() % 2);
    return submit;
  }

  void LoseAndReclaim(const std::vector<Submit>& submits) {
    if (random_() % 2 == 0) coordinator_.Cut();
    Connect();
    for (const Submit& submit : submits) {
      if (!Ended(submit)) coordinator_.Reclaim(submit.key());
    }
  }

  bool Ended(const Submit& submit) {
    for (uint32_t choice = 0; choice < submit.parameters().n(); ++choice) {
      if (!coordinator_.finished(submit.key(), choice)) return false;
    }
    return true;
  }

  // Sees a request through to its end; submits it again where the worker has forgotten it.
  void Finish(Submit& submit) {
    const uint32_t n = submit.parameters().n();
    while (const std::optional<Rejected> rejected = coordinator_.WaitForEnd(submit.key())) {
      ASSERT_EQ(rejected->status_code(), static_cast<int>(absl::StatusCode::kNotFound));
      submit.set_attempt(submit.attempt() + 1);
      submit.clear_emitted();
      for (uint32_t choice = 0; choice < n; ++choice) {
        const std::vector<TokenId> tokens = coordinator_.tokens(submit.key(), choice);
        submit.add_emitted()->mutable_emitted_token_ids()->Add(tokens.begin(), tokens.end());
      }
      coordinator_.Submit(submit);
    }
    const auto& ids = submit.prompt_token_ids();
    std::vector<TokenId> expected =
        ExpectedTokens({ids.begin(), ids.end()}, submit.parameters().max_new_tokens());
    for (uint32_t choice = 0; choice < n; ++choice) {
      const worker::v1::Finish finish = coordinator_.WaitForFinish(submit.key(), choice);
      const std::vector<TokenId> tokens = coordinator_.tokens(submit.key(), choice);
      if (finish.reason() == v1::Finished::LENGTH) {
        EXPECT_EQ(tokens, expected);
      } else {
        EXPECT_EQ(finish.reason(), v1::Finished::ABORTED);
        ASSERT_LE(tokens.size(), expected.size());
        EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), expected.begin()));
      }
    }
  }

  const uint32_t number_;
  std::mt19937 random_;
  TestCoordinator coordinator_;
};

class SessionThreadsTest : public SessionTest {};

TEST_F(SessionThreadsTest, NothingIsLostOrRepeatedUnderCutsAndReclaims) {
  gate_.Open();
  std::atomic<bool> done{false};
  std::thread ticker([&] {
    TestCoordinator watcher(&table_, "watcher");
    watcher.Connect();
    while (!done.load()) {
      table_.Tick();
      table_.load();
      watcher.Sync();
    }
  });
  std::vector<std::thread> threads;
  for (uint32_t number = 0; number < 4; ++number) {
    threads.emplace_back([this, number] { RestlessCoordinator(&table_, number).Run(); });
  }
  for (std::thread& thread : threads) thread.join();
  done.store(true);
  ticker.join();
  // What was cut off when its last round ended is no one's: the grace period ends it.
  now_ += kGrace;
  table_.Tick();
  EXPECT_TRUE(table_.WaitUntilIdle(0));
  TestCoordinator last(&table_, "last");
  last.Connect();
  table_.Tick();
  ExpectAllBlocksBack(last.WaitForIdle());
}

}  // namespace
}  // namespace quire
