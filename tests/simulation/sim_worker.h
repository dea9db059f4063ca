#ifndef QUIRE_TESTS_SIMULATION_SIM_WORKER_H_
#define QUIRE_TESTS_SIMULATION_SIM_WORKER_H_

#include <quire/worker/v1/worker.pb.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "tests/simulation/event_queue.h"
#include "worker/engine/engine_loop.h"
#include "worker/rpc/session_table.h"

namespace quire {

// A worker process of a simulation: the real sessions, engine loop, engine and scheduler over a
// fake device, whose steps take simulated time. May be killed and started again.
class SimWorker final {
 public:
  static constexpr uint32_t kContext = 48;
  static constexpr uint32_t kVocabulary = 262;  // as SmallTokenizers().front()
  static constexpr uint32_t kBlockSize = 4;
  static constexpr uint32_t kPoisonToken = kVocabulary - 1;
  static constexpr int64_t kTickMicros = 250'000;  // as worker/main.cc
  static constexpr int64_t kOrphanGrace = 1'000'000;

  struct Options {
    std::string name;
    uint32_t num_blocks = 24;
    uint32_t max_num_seqs = 4;
    uint32_t max_num_batched_tokens = 16;
    uint32_t max_queue = 64;
    uint32_t steps_in_flight = 1;
    int64_t step_micros = 2'000;
  };
  // `on_poison` is called when a request whose prompt begins with kPoisonToken gets to the device.
  SimWorker(const Options& options, EventQueue* queue, SimTrace* trace,
            std::function<void()> on_poison);
  ~SimWorker();

  // REQUIRES: it is not running.
  void Start();
  // It is gone, with all that it knew.
  void Kill();
  // Takes no request any more; is_drained says when none is left.
  void Drain() { running_->table->StartDraining(); }
  bool is_drained() const { return running_->table->WaitUntilIdle(0); }
  // As worker/main.cc does when the time to drain is over.
  void EndAll();

  bool is_running() const { return running_.has_value(); }
  SimProcess& process() { return process_; }
  SessionTable& table() { return *running_->table; }
  EngineLoad load() const { return running_->engine->load(); }
  // Of the steps that begin from now on.
  void set_step_micros(int64_t micros) { step_micros_ = micros; }
  const Options& options() const { return options_; }

  // Ever, in all its lives.
  uint64_t num_preemptions() const;
  uint64_t num_prefix_hit_tokens() const;

 private:
  // What posts to the engine wakes its loop.
  class Inbox;
  class Device;
  struct Running {
    std::unique_ptr<SessionTable> table;
    const Engine* engine = nullptr;
    std::unique_ptr<EngineLoop> loop;
    std::unique_ptr<Inbox> inbox;
    bool has_turn = false;
  };
  void Wake();
  void Turn();
  void Tick();

  const Options options_;
  SimTrace* const trace_;
  const std::function<void()> on_poison_;
  SimProcess process_;
  worker::v1::WorkerInfo info_;
  int64_t step_micros_;
  uint32_t num_lives_ = 0;
  uint64_t preemptions_before_ = 0;
  uint64_t prefix_hits_before_ = 0;
  std::optional<Running> running_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_SIMULATION_SIM_WORKER_H_
