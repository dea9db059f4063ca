#include "tests/simulation/sim_coordinator.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/rpc/prepare.h"
#include "coordinator/rpc/validate.h"
#include "scheduler/check.h"

namespace quire {
namespace {

constexpr int64_t kPoolMicros = 50;

}  // namespace

Timers::Id SimTimers::Schedule(int64_t at, std::function<void()> function) {
  const Id id = next_id_++;
  functions_[id] = std::move(function);
  process_->At(at, [this, id] {
    const auto found = functions_.find(id);
    if (found == functions_.end()) return;
    const std::function<void()> due = std::move(found->second);
    functions_.erase(found);
    due();
  });
  return id;
}

// --- A call ---

SimCall::SimCall(SimProcess* process, ResumeTokens resume, int64_t write_micros,
                 std::function<void(std::function<void(SimCallPeer&)>)> send)
    : process_(process), write_micros_(write_micros), send_(std::move(send)) {
  cursor_.resume = std::move(resume);
}

void SimCall::Attach(std::shared_ptr<RequestStream> stream, std::shared_ptr<void> slot) {
  stream_ = std::move(stream);
  slot_ = std::move(slot);
}

void SimCall::Abort(const absl::Status& status) {
  if (!abort_.has_value()) abort_ = status;
  Advance();
}

void SimCall::Cancelled() {
  const std::shared_ptr<RequestStream> stream = stream_;
  Abort(absl::CancelledError("the client went away"));
  if (stream != nullptr) stream->ClientGone(this);
}

void SimCall::Lose() {
  is_finished_ = true;
  stream_.reset();
  slot_.reset();
}

void SimCall::Advance() {
  if (is_finished_ || is_writing_) return;
  absl::Status status;
  std::shared_ptr<RequestStream> ended;
  if (abort_.has_value()) {
    status = *abort_;
  } else {
    if (stream_ == nullptr) return;
    v1::GenerateEvent event;
    switch (stream_->Take(&cursor_, &event, &status)) {
      case RequestStream::Taken::kNothing:
        return;
      case RequestStream::Taken::kEvent:
        is_writing_ = true;
        send_([event = std::move(event)](SimCallPeer& peer) { peer.OnEvent(event); });
        process_->At(process_->now() + write_micros_, [self = shared_from_this()] {
          self->is_writing_ = false;
          self->Advance();
        });
        return;
      case RequestStream::Taken::kEnd:
        ended = stream_;
        break;
    }
  }
  is_finished_ = true;
  send_([status](SimCallPeer& peer) { peer.OnEnd(status); });
  if (ended != nullptr) ended->ClientGone(this);
  // gRPC's OnDone comes later.
  process_->At(process_->now(), [self = shared_from_this()] { self->Lose(); });
}

// --- The process ---

SimCoordinator::Running::Running(SimProcess* process, const std::string& id, size_t max_open,
                                 ModelCatalog* catalog, const WorkerConnectorFactory& connect)
    : timers(process),
      pool(0, 1000),
      registry({id, &timers, &pool, catalog, nullptr}, connect),
      placer(&registry, &timers),
      streams(max_open, [process] { return process->now(); }) {}

SimCoordinator::SimCoordinator(const Options& options, EventQueue* queue, ModelCatalog* catalog,
                               WorkerConnectorFactory connect, std::vector<std::string> workers)
    : options_(options),
      catalog_(catalog),
      connect_(std::move(connect)),
      workers_(std::move(workers)),
      process_(queue) {}

void SimCoordinator::Start() {
  QUIRE_CHECK(running_ == nullptr);
  process_.Begin();
  running_ = std::make_unique<Running>(&process_,
                                       absl::StrCat("c", options_.number, " life ", ++num_lives_),
                                       options_.max_open, catalog_, connect_);
  for (const std::string& worker : workers_) running_->registry.AddStatic(worker);
  process_.At(process_.now(), [this] { Tick(); });
}

void SimCoordinator::Kill() {
  process_.Kill();
  for (const auto& call : running_->calls) {
    if (const auto living = call.lock()) living->Lose();
  }
  running_.reset();
}

void SimCoordinator::Tick() {
  running_->registry.Tick();
  std::erase_if(running_->calls, [](const auto& call) { return call.expired(); });
  process_.At(process_.now() + kTickMicros, [this] { Tick(); });
}

void SimCoordinator::RunPosted() {
  process_.At(process_.now() + kPoolMicros, [this] {
    while (running_->pool.RunOne()) {
    }
  });
}

RequestStream::Context SimCoordinator::MakeContext() {
  RequestStream::Context context;
  context.placer = &running_->placer;
  context.timers = &running_->timers;
  context.move_timeout = options_.move_timeout;
  context.quarantine_after = options_.quarantine_after;
  context.on_end = [running = running_.get()](RequestStream& stream, const RequestRecord& record) {
    ++running->num_ended;
    running->streams.OnEnd(stream, record.status);
  };
  context.on_quarantined = [this, running = running_.get()](const RequestStream& stream) {
    ++num_quarantined_;
    running->streams.Quarantine(stream);
  };
  return context;
}

void SimCoordinator::Generate(const v1::GenerateRequest& request,
                              const std::shared_ptr<SimCall>& call) {
  running_->calls.push_back(call);
  if (absl::Status status = Begin(request, call); !status.ok()) call->Abort(status);
}

absl::Status SimCoordinator::Begin(const v1::GenerateRequest& request,
                                   const std::shared_ptr<SimCall>& call) {
  if (absl::Status status = ValidateRequest(request); !status.ok()) return status;
  const std::string& id = request.request_id();
  const std::string fingerprint = Fingerprint(request);
  std::optional<int64_t> deadline;
  if (request.has_timeout_ms()) deadline = process_.now() + int64_t{request.timeout_ms()} * 1000;
  std::shared_ptr<RequestStream> stream;
  bool is_new = false;
  for (bool attached = false; !attached;) {
    auto found = running_->streams.FindOrMake(id, fingerprint, [&] {
      ++running_->num_made;
      return std::make_shared<RequestStream>(running_->next_key++, id, fingerprint, MakeContext());
    });
    if (!found.ok()) return found.status();
    stream = found->stream;
    is_new = found->is_new;
    call->Attach(stream, std::move(found->slot));
    attached = stream->Attach(call, ResumeOf(request), deadline, "timeout_ms");
  }
  if (call->is_aborted()) stream->ClientGone(call.get());
  if (!is_new) return absl::OkStatus();
  if (!WasAccepted(request)) {
    if (absl::Status full = running_->placer.CheckRoom(request); !full.ok()) {
      stream->End(full);
      return absl::OkStatus();
    }
  }
  if (request.queue_timeout_ms() > 0) stream->LimitQueueing(request.queue_timeout_ms());
  const bool posted = running_->pool.Post([this, stream, request] {
    if (stream->has_ended()) return;
    auto prepared =
        PrepareRequest(request, stream->request_id(), ResumeOf(request), running_->placer, false);
    if (!prepared.ok()) return stream->End(prepared.status());
    stream->Begin(*std::move(prepared));
  });
  QUIRE_CHECK(posted);
  RunPosted();
  return absl::OkStatus();
}

bool SimCoordinator::Cancel(const std::string& request_id) {
  const std::shared_ptr<RequestStream> stream = running_->streams.FindLive(request_id);
  if (stream != nullptr) stream->Cancel();
  return stream != nullptr;
}

}  // namespace quire
