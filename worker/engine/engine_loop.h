#ifndef QUIRE_WORKER_ENGINE_ENGINE_LOOP_H_
#define QUIRE_WORKER_ENGINE_ENGINE_LOOP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "worker/engine/engine.h"
#include "worker/engine/engine_inbox.h"
#include "worker/engine/model_executor.h"

namespace quire {

// Hears what the loop does, on the loop's thread: every call must return at once.
class EngineListener {
 public:
  virtual ~EngineListener() = default;
  // After each step that brought something. `output` may be moved from.
  virtual void OnOutput(EngineOutput& output) = 0;
  // A Submit that the engine did not take.
  virtual void OnRejected(RequestKey key, uint32_t attempt, const absl::Status& status) = 0;
  // After a request began or ended (within the same step), and on RequestLoad.
  virtual void OnLoad(const EngineLoad& load) = 0;
  // The executor is lost; no other call follows. The process should say why and exit.
  virtual void OnFatal(const absl::Status& status) = 0;
};

// Runs an engine on a thread of its own: plan, execute, settle. Others reach it by posting; an idle
// loop waits on a condition variable.
//
// Post* and the observers are thread safe. The mailbox holds at most `max_mailbox` submits; cancels
// are always taken, so a caller posts at most one for each choice of a request that it submitted.
class EngineLoop final : public EngineInbox {
 public:
  EngineLoop(std::unique_ptr<Engine> engine, std::unique_ptr<ModelExecutor> executor,
             EngineListener* listener, size_t max_mailbox,
             std::function<Micros()> clock = SteadyMicros);
  // Stops after the step in flight. Requests that still live get no further output.
  ~EngineLoop() override;
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  void Start();
  void Stop();

  // The loop's two halves, for a caller that is its thread instead of Start's: Begin takes the mail
  // in and launches what may run; Complete collects the oldest step, if one is in flight, and tells
  // the listener. Neither waits for mail. False: the device is lost, or Stop was called.
  bool Begin();
  bool Complete();
  uint32_t num_in_flight() const { return in_flight_; }

  absl::Status PostSubmit(EngineRequest request) override;
  void PostCancel(RequestKey key, std::optional<uint32_t> choice,
                  std::optional<uint32_t> stop_index) override;
  void PostRequestLoad() override;
  uint64_t steps() const override { return steps_.load(std::memory_order_relaxed); }
  Micros SinceProgress() const override;

 private:
  struct SubmitMessage {
    EngineRequest request;
  };
  struct CancelMessage {
    RequestKey key;
    std::optional<uint32_t> choice;
    std::optional<uint32_t> stop_index;
  };
  using Message = std::variant<SubmitMessage, CancelMessage>;

  void Run();
  bool Launch();
  void SetIdle(bool idle);
  // Takes the mailbox's messages into the engine; waits for one first when `may_wait`. False: the
  // loop is to stop.
  bool Receive(bool may_wait);
  // Tells the listener what happened.
  void Emit();

  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ModelExecutor> executor_;
  EngineListener* listener_;
  const size_t max_mailbox_;
  const std::function<Micros()> clock_;

  Mutex mutex_;
  CondVar wake_;
  std::vector<Message> mailbox_ QUIRE_GUARDED_BY(mutex_);
  size_t num_submits_ QUIRE_GUARDED_BY(mutex_) = 0;
  bool load_requested_ QUIRE_GUARDED_BY(mutex_) = false;
  bool stopping_ QUIRE_GUARDED_BY(mutex_) = false;
  // Set by a poster, so that a busy loop looks into the mailbox without taking the lock each step.
  std::atomic<bool> has_mail_{false};

  std::atomic<uint64_t> steps_{0};
  std::atomic<Micros> last_progress_{0};
  std::atomic<bool> idle_{true};

  // Of the loop's thread alone.
  StepPlan plan_;
  StepResult result_;
  uint32_t in_flight_ = 0;
  std::vector<Message> received_;
  EngineOutput output_;
  uint32_t last_running_ = 0;
  uint32_t last_waiting_ = 0;

  std::thread thread_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_ENGINE_ENGINE_LOOP_H_
