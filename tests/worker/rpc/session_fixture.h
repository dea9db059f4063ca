#ifndef QUIRE_TESTS_WORKER_RPC_SESSION_FIXTURE_H_
#define QUIRE_TESTS_WORKER_RPC_SESSION_FIXTURE_H_

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "tests/fakes/gated_executor.h"
#include "tests/worker/engine/engine_fixture.h"
#include "tests/worker/rpc/test_coordinator.h"
#include "worker/engine/engine_loop.h"
#include "worker/rpc/session_table.h"

namespace quire {

// A worker without gRPC and without a model: session table, engine loop and a gated fake device.
// Time stands still but for what the test adds to it.
class SessionTest : public testing::Test {
 protected:
  static constexpr Micros kGrace = 10'000'000;

  SessionTest() : SessionTest(worker::v1::Limits()) {}
  // With these limits for the sessions; the device's are limits_ in any case.
  explicit SessionTest(const worker::v1::Limits& session_limits) : session_limits_(session_limits) {
    table_.SetInbox(&loop_);
    loop_.Start();
  }
  ~SessionTest() override { gate_.Open(); }

  SessionTable::Options TableOptions() {
    SessionTable::Options options;
    options.info.set_name("worker under test");
    *options.info.mutable_limits() = session_limits_;
    options.incarnation = "first life";
    options.orphan_grace = kGrace;
    options.clock = [this] { return now_.load(); };
    options.on_request_end = [this](const SessionTable::RequestRecord& record) {
      MutexLock lock(mutex_);
      records_.push_back(record);
      ended_.NotifyAll();
    };
    options.on_token_gap = [this](Micros gap, uint32_t num_tokens) {
      MutexLock lock(mutex_);
      token_gaps_.emplace_back(gap, num_tokens);
    };
    options.on_fatal = [](const absl::Status& status) { ADD_FAILURE() << status; };
    return options;
  }

  // Waits until that many requests have ended.
  std::vector<SessionTable::RequestRecord> WaitForRecords(size_t count) {
    MutexLock lock(mutex_);
    while (records_.size() < count) ended_.Wait(mutex_);
    return records_;
  }

  const worker::v1::Limits session_limits_;  // none: nothing is refused
  std::atomic<Micros> now_{1'000'000'000};
  Mutex mutex_;
  CondVar ended_;
  std::vector<SessionTable::RequestRecord> records_ QUIRE_GUARDED_BY(mutex_);

  std::vector<std::pair<Micros, uint32_t>> token_gaps_ QUIRE_GUARDED_BY(mutex_);

  StepGate gate_;
  const ExecutorLimits limits_ = TestLimits(256, 4, 16, 64, 1);
  SessionTable table_{TableOptions()};
  EngineLoop loop_{
      MakeTestEngine(SchedulerOptions(limits_)),
      std::make_unique<GatedExecutor>(FakeExecutor::Options{.limits = limits_}, &gate_), &table_,
      64};
};

inline void ExpectAllBlocksBack(const worker::v1::Load& load) {
  EXPECT_EQ(load.blocks_free() + load.blocks_cached(), load.blocks_total());
}

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_RPC_SESSION_FIXTURE_H_
