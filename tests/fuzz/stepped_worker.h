#ifndef QUIRE_TESTS_FUZZ_STEPPED_WORKER_H_
#define QUIRE_TESTS_FUZZ_STEPPED_WORKER_H_

#include <quire/worker/v1/worker.pb.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <variant>

#include "worker/device/fake/fake_executor.h"
#include "worker/engine/engine_inbox.h"
#include "worker/engine/request_engine.h"
#include "worker/rpc/session_table.h"

namespace quire {

// A worker on the caller's thread alone, so that one input always does the same: the real sessions,
// engine and scheduler over a fake device, whose steps are taken one by one. Time is `now`.
class SteppedWorker final : public EngineInbox {
 public:
  static constexpr uint32_t kContext = 48;
  static constexpr uint32_t kVocabulary = 262;  // as the tokenizer of SteppedCoordinator
  static constexpr uint32_t kNumBlocks = 24;    // few enough to preempt
  static constexpr uint32_t kBlockSize = 4;
  static constexpr uint32_t kMaxNumSeqs = 8;
  static constexpr uint32_t kMaxQueue = 16;
  static constexpr Micros kOrphanGrace = 10'000'000;

  explicit SteppedWorker(uint32_t steps_in_flight);

  static worker::v1::WorkerInfo Info();

  SessionTable& table() { return table_; }
  EngineLoad load() const { return engine_->load(); }
  uint32_t num_ended() const { return num_ended_; }  // requests that were reported
  Micros now = 1'000'000'000;

  // Takes the mail in, and one step. False: there was neither.
  bool Step();
  // REQUIRES: every request ends.
  void RunUntilIdle();

  absl::Status PostSubmit(EngineRequest request) override;
  void PostCancel(RequestKey key, std::optional<uint32_t> choice,
                  std::optional<uint32_t> stop_index) override;
  void PostRequestLoad() override { load_requested_ = true; }
  uint64_t steps() const override { return steps_; }
  Micros SinceProgress() const override { return 0; }

 private:
  struct Cancel {
    RequestKey key;
    std::optional<uint32_t> choice;
    std::optional<uint32_t> stop_index;
  };
  void Receive();
  void Emit();

  std::deque<std::variant<EngineRequest, Cancel>> mail_;  // at most kMaxMail submits
  size_t num_submits_ = 0;
  bool load_requested_ = false;
  uint64_t steps_ = 0;
  uint32_t in_flight_ = 0;
  uint32_t num_ended_ = 0;
  FakeExecutor executor_;
  std::unique_ptr<RequestEngine> engine_;
  SessionTable table_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_FUZZ_STEPPED_WORKER_H_
