#ifndef QUIRE_TESTS_COORDINATOR_IN_PROCESS_CLUSTER_H_
#define QUIRE_TESTS_COORDINATOR_IN_PROCESS_CLUSTER_H_

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "coordinator/registry/placer.h"
#include "coordinator/registry/worker_registry.h"
#include "coordinator/stream/request_stream.h"
#include "coordinator/stream/stream_table.h"
#include "coordinator/stream/timer_queue.h"
#include "scheduler/batch/batch_scheduler.h"
#include "tests/fakes/in_process_stream.h"
#include "worker/device/fake/fake_executor.h"
#include "worker/engine/engine_loop.h"
#include "worker/engine/request_engine.h"
#include "worker/rpc/session_table.h"

namespace quire {

// A whole worker without model and network: the real scheduler, engine loop and sessions over a
// fake device.
class InProcessWorker {
 public:
  struct Options {
    std::string name = "w";
    std::string incarnation = "1";
    std::string model = "m";
    uint32_t vocabulary = 8192;
    uint32_t context = 512;
    uint32_t num_blocks = 256;
    uint32_t max_num_seqs = 16;
    uint32_t max_queue = 64;
    int64_t step_micros = 0;
    std::string numerics_id = "fake";
  };
  explicit InProcessWorker(const Options& options) {
    ExecutorLimits limits;
    limits.num_slots = options.max_num_seqs;
    limits.max_num_batched_tokens = 128;
    limits.context_length = options.context;
    limits.vocabulary_size = options.vocabulary;
    limits.block_size = 4;
    limits.num_blocks = options.num_blocks;
    limits.kv_bytes_per_token = 1;
    BatchScheduler::Options scheduler;
    scheduler.kv.num_blocks = limits.num_blocks;
    scheduler.kv.block_size = limits.block_size;
    scheduler.max_num_seqs = limits.num_slots;
    scheduler.max_num_batched_tokens = limits.max_num_batched_tokens;
    scheduler.max_queue = options.max_queue;
    scheduler.kv_bytes_per_token = 1;
    FakeExecutor::Options device;
    device.limits = limits;
    device.step_time = std::chrono::microseconds(options.step_micros);

    SessionTable::Options table;
    table.info.set_name(options.name);
    table.info.set_model(options.model);
    table.info.set_engine(v1::PAGED);
    table.info.set_numerics_id(options.numerics_id);
    table.info.set_context_length(limits.context_length);
    table.info.set_vocabulary_size(limits.vocabulary_size);
    table.info.mutable_kv()->set_block_size(limits.block_size);
    table.info.mutable_kv()->set_num_blocks(limits.num_blocks);
    table.info.mutable_limits()->set_max_num_seqs(options.max_num_seqs);
    table.info.mutable_limits()->set_max_queue(options.max_queue);
    table.incarnation = options.incarnation;
    table.clock = SteadyMicros;
    table.on_fatal = [](const absl::Status&) {};
    table_ = std::make_unique<SessionTable>(std::move(table));
    loop_ = std::make_unique<EngineLoop>(
        std::make_unique<RequestEngine>(
            RequestEngine::Options{limits.context_length, limits.vocabulary_size},
            std::make_unique<BatchScheduler>(scheduler)),
        std::make_unique<FakeExecutor>(device), table_.get(), 1024);
    table_->SetInbox(loop_.get());
    loop_->Start();
  }

  SessionTable& table() { return *table_; }

 private:
  std::unique_ptr<SessionTable> table_;
  std::unique_ptr<EngineLoop> loop_;  // stops before the table goes
};

// The network of a test: workers by address, which can be started, cut off and replaced.
class InProcessNetwork {
 public:
  using Stream = InProcessStream<worker::v1::SessionRequest, worker::v1::SessionEvent>;

  explicit InProcessNetwork(ModelFiles files) : files_(std::move(files)) {}
  ~InProcessNetwork() {
    std::vector<std::unique_ptr<Stream>> streams;
    {
      MutexLock lock(mutex_);
      streams.swap(streams_);
    }
    streams.clear();
  }

  void Start(const std::string& address, const InProcessWorker::Options& options) {
    auto worker = std::make_shared<InProcessWorker>(options);
    MutexLock lock(mutex_);
    std::shared_ptr<InProcessWorker>& at = workers_[address];
    if (at != nullptr) replaced_.push_back(std::move(at));  // its connections are open still
    at = std::move(worker);
  }
  // The worker at `address` answers at `alias` too.
  void Alias(const std::string& alias, const std::string& address) {
    MutexLock lock(mutex_);
    workers_[alias] = workers_.at(address);
  }
  // The worker at `address` is gone: its connections are cut.
  void Kill(const std::string& address) {
    std::vector<std::unique_ptr<Stream>> cut;
    std::shared_ptr<InProcessWorker> gone;
    {
      MutexLock lock(mutex_);
      gone = std::move(workers_[address]);
      workers_.erase(address);
      for (auto& [stream_address, index] : stream_addresses_) {
        if (stream_address == address && streams_[index] != nullptr) {
          cut.push_back(std::move(streams_[index]));
        }
      }
    }
    cut.clear();
  }
  // The worker at `address` says nothing to anyone, or goes on where it had stopped.
  void SetSilent(const std::string& address, bool silent) {
    MutexLock lock(mutex_);
    for (auto& [stream_address, index] : stream_addresses_) {
      if (stream_address == address && streams_[index] != nullptr) {
        streams_[index]->SetClientReads(!silent);
      }
    }
  }
  // The worker at `address` hears nobody, or goes on where it had stopped.
  void SetDeaf(const std::string& address, bool deaf) {
    MutexLock lock(mutex_);
    for (auto& [stream_address, index] : stream_addresses_) {
      if (stream_address == address && streams_[index] != nullptr) {
        streams_[index]->SetServerReads(!deaf);
      }
    }
  }
  // What the worker at `address` gives as its model's files from now on; nothing: it never answers.
  void SetFiles(const std::string& address, std::optional<ModelFiles> files) {
    MutexLock lock(mutex_);
    other_files_[address] = std::move(files);
  }
  size_t num_fetches(const std::string& address) {
    MutexLock lock(mutex_);
    return num_fetches_[address];
  }
  // Runs in the midst of the next submit, as another thread might.
  void OnNextSubmit(std::function<void(const worker::v1::Submit&)> hook) {
    MutexLock lock(mutex_);
    on_submit_ = std::move(hook);
  }
  size_t num_cancels(const std::string& address) {
    MutexLock lock(mutex_);
    return num_cancels_[address];
  }
  // What was submitted to the worker at `address`.
  std::vector<worker::v1::Submit> Submits(const std::string& address) {
    MutexLock lock(mutex_);
    return submits_[address];
  }
  std::shared_ptr<InProcessWorker> Worker(const std::string& address) {
    MutexLock lock(mutex_);
    const auto found = workers_.find(address);
    return found == workers_.end() ? nullptr : found->second;
  }

  std::unique_ptr<WorkerConnector> Connect(const std::string& address) {
    return std::make_unique<Connector>(this, address);
  }

 private:
  using FetchDone = std::function<void(absl::StatusOr<ModelFiles>)>;
  // What OpenSession gives where nobody listens.
  class NoSink final : public WorkerConnector::Sink {
   public:
    bool Write(worker::v1::SessionRequest) override { return false; }
    void Close(absl::Status) override {}
  };
  // Notes the submits and cancels that pass.
  class NotingSink final : public WorkerConnector::Sink {
   public:
    NotingSink(InProcessNetwork* network, std::string address,
               std::shared_ptr<WorkerConnector::Sink> sink)
        : network_(network), address_(std::move(address)), sink_(std::move(sink)) {}
    bool Write(worker::v1::SessionRequest message) override {
      if (message.has_submit()) network_->NoteSubmit(address_, message.submit());
      if (message.has_cancel()) network_->NoteCancel(address_);
      return sink_->Write(std::move(message));
    }
    void Close(absl::Status status) override { sink_->Close(std::move(status)); }

   private:
    InProcessNetwork* const network_;
    const std::string address_;
    const std::shared_ptr<WorkerConnector::Sink> sink_;
  };
  class Connector final : public WorkerConnector {
   public:
    Connector(InProcessNetwork* network, std::string address)
        : network_(network), address_(std::move(address)) {}
    std::shared_ptr<Sink> OpenSession(std::shared_ptr<Handler> handler) override {
      return network_->Open(address_, std::move(handler));
    }
    CancelFetch FetchFiles(const std::string&, FetchDone done) override {
      const auto files = network_->FilesAt(address_);
      if (files.has_value()) {
        done(*files);
        return [] {};
      }
      const auto waiting = std::make_shared<FetchDone>(std::move(done));
      network_->Keep(waiting);
      return [waiting] {
        if (const auto told = std::exchange(*waiting, nullptr)) {
          told(absl::CancelledError("cancelled"));
        }
      };
    }

   private:
    InProcessNetwork* const network_;
    const std::string address_;
  };

  std::shared_ptr<WorkerConnector::Sink> Open(const std::string& address,
                                              std::shared_ptr<WorkerConnector::Handler> handler) {
    const std::shared_ptr<InProcessWorker> worker = Worker(address);
    if (worker == nullptr) {
      handler->OnClosed(absl::UnavailableError("connection refused"));
      return std::make_shared<NoSink>();
    }
    auto stream = std::make_unique<Stream>(
        std::move(handler), [&](auto sink) { return worker->table().Connect(std::move(sink)); });
    auto sink = std::make_shared<NotingSink>(this, address, stream->client_sink());
    {
      MutexLock lock(mutex_);
      const auto found = workers_.find(address);
      if (found != workers_.end() && found->second == worker) {
        stream_addresses_.emplace_back(address, streams_.size());
        streams_.push_back(std::move(stream));
      }
    }
    // Killed or replaced meanwhile: Kill did not see the stream, which must not outlive its worker.
    stream.reset();
    return sink;
  }

  void NoteCancel(const std::string& address) {
    MutexLock lock(mutex_);
    ++num_cancels_[address];
  }

  void NoteSubmit(const std::string& address, const worker::v1::Submit& submit) {
    std::function<void(const worker::v1::Submit&)> hook;
    {
      MutexLock lock(mutex_);
      submits_[address].push_back(submit);
      hook = std::exchange(on_submit_, nullptr);
    }
    if (hook != nullptr) hook(submit);
  }

  std::optional<ModelFiles> FilesAt(const std::string& address) {
    MutexLock lock(mutex_);
    ++num_fetches_[address];
    const auto other = other_files_.find(address);
    return other == other_files_.end() ? files_ : other->second;
  }

  // A fetch that is not answered is open until it is cancelled.
  void Keep(std::shared_ptr<FetchDone> waiting) {
    MutexLock lock(mutex_);
    waiting_fetches_.push_back(std::move(waiting));
  }

  const ModelFiles files_;
  Mutex mutex_;
  std::vector<std::shared_ptr<FetchDone>> waiting_fetches_ QUIRE_GUARDED_BY(mutex_);
  std::map<std::string, std::optional<ModelFiles>> other_files_ QUIRE_GUARDED_BY(mutex_);
  std::map<std::string, size_t> num_fetches_ QUIRE_GUARDED_BY(mutex_);
  std::map<std::string, size_t> num_cancels_ QUIRE_GUARDED_BY(mutex_);
  std::map<std::string, std::vector<worker::v1::Submit>> submits_ QUIRE_GUARDED_BY(mutex_);
  std::function<void(const worker::v1::Submit&)> on_submit_ QUIRE_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<InProcessWorker>> workers_ QUIRE_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<InProcessWorker>> replaced_ QUIRE_GUARDED_BY(mutex_);
  std::vector<std::pair<std::string, size_t>> stream_addresses_ QUIRE_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Stream>> streams_ QUIRE_GUARDED_BY(mutex_);
};

// A coordinator without gRPC.
class InProcessCoordinator {
 public:
  struct Options {
    size_t max_live = 1000;
    int64_t forget_micros = WorkerRegistry::kForgetMicros;
    // WorkerLink::Context's: far longer than a thread waits for a processor on a busy machine.
    int64_t silence_micros = 15'000'000;
    int64_t ask_micros = Placer::kAskMicros;
  };
  explicit InProcessCoordinator(InProcessNetwork* network)
      : InProcessCoordinator(network, Options()) {}
  InProcessCoordinator(InProcessNetwork* network, const Options& options)
      : catalog_(ServedModel::Options{}),
        pool_(1, 100),
        registry_(
            {"c", &timers_, &pool_, &catalog_, nullptr, options.silence_micros},
            [network](const std::string& address) { return network->Connect(address); },
            options.forget_micros),
        placer_(&registry_, &timers_, options.ask_micros),
        streams_(options.max_live) {}
  ~InProcessCoordinator() {
    streams_.EndAll(absl::UnavailableError("the test is over"));
    Stop();
  }
  // No worker and no timer calls a stream any more, which would tell its table of its end.
  void Stop() {
    registry_.Shutdown();
    timers_.Stop();
  }

  WorkerRegistry& registry() { return registry_; }
  Placer& placer() { return placer_; }
  StreamTable& streams() { return streams_; }

  // Of the streams made from now on: RequestStream::Context's.
  void set_move_timeout(int64_t micros) { move_timeout_ = micros; }
  void set_quarantine_after(uint32_t workers) { quarantine_after_ = workers; }

  // Waits until `count` workers are READY.
  void WaitUntilReady(size_t count) {
    for (;;) {
      registry_.Tick();  // lest those that came first seem silent on a slow machine
      size_t ready = 0;
      for (const WorkerView& view : registry_.Views()) {
        ready += view.state == v1::WorkerLoad::READY ? 1 : 0;
      }
      if (ready >= count) return;
      WaitForTick();
    }
  }
  // Waits for one turn of the timers' thread.
  void WaitForTick() {
    Mutex mutex;
    CondVar done;
    bool is_done = false;
    timers_.ScheduleAfter(2'000, [&] {
      MutexLock lock(mutex);
      is_done = true;
      done.NotifyAll();
    });
    MutexLock lock(mutex);
    while (!is_done) done.Wait(mutex);
  }

  RequestStream::Context MakeContext() {
    RequestStream::Context context;
    context.placer = &placer_;
    context.timers = &timers_;
    context.move_timeout = move_timeout_;
    context.quarantine_after = quarantine_after_;
    context.on_quarantined = [this](RequestStream& stream) { streams_.Quarantine(stream); };
    context.on_end = [this](RequestStream& stream, const RequestRecord& record) {
      streams_.OnEnd(stream, record.status);
      MutexLock lock(mutex_);
      records_.push_back(record);
    };
    return context;
  }
  std::shared_ptr<RequestStream> MakeStream(const std::string& request_id,
                                            std::optional<int64_t> received_at = std::nullopt) {
    const RequestStream::Context context = MakeContext();
    const auto found = streams_.FindOrMake(request_id, "body", [&] {
      return std::make_shared<RequestStream>(next_key_++, request_id, "body", context, received_at);
    });
    return found->stream;
  }
  std::vector<RequestRecord> records() {
    MutexLock lock(mutex_);
    return records_;
  }
  std::shared_ptr<const ServedModel> model() { return placer_.Resolve("m", v1::PAGED, "")->model; }

 private:
  Mutex mutex_;
  std::vector<RequestRecord> records_ QUIRE_GUARDED_BY(mutex_);
  std::atomic<uint64_t> next_key_ = 1;
  int64_t move_timeout_ = 30'000'000;
  uint32_t quarantine_after_ = 0;
  TimerQueue timers_;
  ModelCatalog catalog_;
  WorkPool pool_;  // may be making a model
  WorkerRegistry registry_;
  Placer placer_;
  StreamTable streams_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_COORDINATOR_IN_PROCESS_CLUSTER_H_
