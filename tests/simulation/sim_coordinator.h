#ifndef QUIRE_TESTS_SIMULATION_SIM_COORDINATOR_H_
#define QUIRE_TESTS_SIMULATION_SIM_COORDINATOR_H_

#include <quire/v1/inference.pb.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/model/model_catalog.h"
#include "coordinator/registry/placer.h"
#include "coordinator/registry/worker_registry.h"
#include "coordinator/stream/request_stream.h"
#include "coordinator/stream/stream_table.h"
#include "coordinator/stream/timers.h"
#include "coordinator/stream/work_pool.h"
#include "tests/simulation/event_queue.h"

namespace quire {

// Timers of a process's life.
class SimTimers final : public Timers {
 public:
  explicit SimTimers(SimProcess* process) : process_(process) {}

  int64_t Now() const override { return process_->now(); }
  Id Schedule(int64_t at, std::function<void()> function) override;
  void Cancel(Id id) override { functions_.erase(id); }
  size_t num_scheduled() const { return functions_.size(); }

 private:
  SimProcess* const process_;
  Id next_id_ = 1;
  std::map<Id, std::function<void()>> functions_;
};

// The client's end of a call, as its server's side reaches it.
class SimCallPeer {
 public:
  virtual ~SimCallPeer() = default;
  virtual void OnEvent(v1::GenerateEvent event) = 0;
  // The last word.
  virtual void OnEnd(const absl::Status& status) = 0;
};

// The server's side of one Generate call: as ClientWriter (coordinator/rpc/generate_call.h), with
// one write in flight, which takes as long as the client is slow.
class SimCall final : public ClientSink, public std::enable_shared_from_this<SimCall> {
 public:
  // `send` carries a word to the client; `write_micros`: until it has taken an event.
  SimCall(SimProcess* process, ResumeTokens resume, int64_t write_micros,
          std::function<void(std::function<void(SimCallPeer&)>)> send);

  void Attach(std::shared_ptr<RequestStream> stream, std::shared_ptr<void> slot);
  void Kick() override { Advance(); }
  void Abort(const absl::Status& status) override;
  // The client went away, or its process noticed so.
  void Cancelled();
  // The process has gone: nothing is said any more.
  void Lose();
  bool is_aborted() const { return abort_.has_value(); }
  bool is_finished() const { return is_finished_; }

 private:
  void Advance();

  SimProcess* const process_;
  const int64_t write_micros_;
  const std::function<void(std::function<void(SimCallPeer&)>)> send_;
  RequestStream::Cursor cursor_;
  std::shared_ptr<RequestStream> stream_;
  std::shared_ptr<void> slot_;
  bool is_writing_ = false;
  bool is_finished_ = false;
  std::optional<absl::Status> abort_;
};

// A coordinator process of a simulation: everything but gRPC. May be killed and started again.
class SimCoordinator final {
 public:
  static constexpr int64_t kTickMicros = 250'000;  // as coordinator/main.cc

  struct Options {
    uint32_t number = 0;
    size_t max_open = 1000;
    int64_t move_timeout = 10'000'000;
    uint32_t quarantine_after = 2;
  };
  // `connect`: how a life of it reaches workers. `workers`: their addresses.
  SimCoordinator(const Options& options, EventQueue* queue, ModelCatalog* catalog,
                 WorkerConnectorFactory connect, std::vector<std::string> workers);

  // REQUIRES: it is not running.
  void Start();
  // It is gone, with all that it knew. REQUIRES: no session of it is left on the network.
  void Kill();
  bool is_running() const { return running_ != nullptr; }
  SimProcess& process() { return process_; }

  // As InferenceService::Generate.
  void Generate(const v1::GenerateRequest& request, const std::shared_ptr<SimCall>& call);
  // As InferenceService::Cancel. False: there is no such request.
  bool Cancel(const std::string& request_id);
  // What was posted to the pools runs soon.
  void RunPosted();

  WorkerRegistry& registry() { return running_->registry; }
  StreamTable& streams() { return running_->streams; }
  size_t num_timers() const { return running_->timers.num_scheduled(); }
  // Of the streams of this life: made, and ended as on_end says.
  uint64_t num_made() const { return running_->num_made; }
  uint64_t num_ended() const { return running_->num_ended; }
  uint64_t num_quarantined() const { return num_quarantined_; }

 private:
  struct Running {
    Running(SimProcess* process, const std::string& id, size_t max_open, ModelCatalog* catalog,
            const WorkerConnectorFactory& connect);
    // As coordinator/main.cc: what may still call into a part ends before it.
    ~Running() { registry.Shutdown(); }

    SimTimers timers;
    WorkPool pool;  // both of coordinator/main.cc's
    WorkerRegistry registry;
    Placer placer;
    StreamTable streams;
    std::vector<std::weak_ptr<SimCall>> calls;
    uint64_t next_key = 1;
    uint64_t num_made = 0;
    uint64_t num_ended = 0;
  };
  RequestStream::Context MakeContext();
  absl::Status Begin(const v1::GenerateRequest& request, const std::shared_ptr<SimCall>& call);
  void Tick();

  const Options options_;
  ModelCatalog* const catalog_;
  const WorkerConnectorFactory connect_;
  const std::vector<std::string> workers_;
  SimProcess process_;
  uint32_t num_lives_ = 0;
  uint64_t num_quarantined_ = 0;
  std::unique_ptr<Running> running_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_SIMULATION_SIM_COORDINATOR_H_
