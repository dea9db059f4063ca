#include "coordinator/worker_client/worker_link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/printable.h"
#include "common/worker_identity.h"

namespace quire {

using worker::v1::SessionEvent;
using worker::v1::SessionRequest;

namespace {

// A reason, which clients may see.
constexpr size_t kMaxWhyBytes = 1024;

}  // namespace

class WorkerLink::Holds {
 public:
  // A hold lives as long as the pointer.
  static std::shared_ptr<void> Take(const std::shared_ptr<Holds>& holds) {
    {
      MutexLock lock(holds->mutex_);
      ++holds->count_;
    }
    return std::shared_ptr<void>(nullptr, [holds](void*) {
      MutexLock lock(holds->mutex_);
      if (--holds->count_ == 0) holds->none_.NotifyAll();
    });
  }
  void WaitUntilNone() {
    MutexLock lock(mutex_);
    while (count_ > 0) none_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar none_;
  size_t count_ QUIRE_GUARDED_BY(mutex_) = 0;
};

class WorkerLink::SessionHandler final : public WorkerConnector::Handler {
 public:
  SessionHandler(std::weak_ptr<WorkerLink> link, uint64_t session, std::shared_ptr<void> hold)
      : hold_(std::move(hold)), link_(std::move(link)), session_(session) {}
  void OnMessage(SessionEvent event) override {
    if (const auto link = link_.lock()) link->OnEvent(session_, std::move(event));
  }
  void OnClosed(const absl::Status& status) override {
    if (const auto link = link_.lock()) link->OnClosed(session_, status);
    hold_.reset();  // the last call
  }

 private:
  std::shared_ptr<void> hold_;
  const std::weak_ptr<WorkerLink> link_;
  const uint64_t session_;
};

std::shared_ptr<WorkerLink> WorkerLink::Create(WorkerNumber number, std::string address,
                                               std::unique_ptr<WorkerConnector> connector,
                                               const Context& context) {
  return std::shared_ptr<WorkerLink>(
      new WorkerLink(number, std::move(address), std::move(connector), context));
}

WorkerLink::WorkerLink(WorkerNumber number, std::string address,
                       std::unique_ptr<WorkerConnector> connector, const Context& context)
    : number_(number),
      address_(std::move(address)),
      connector_(std::move(connector)),
      context_(context),
      holds_(std::make_shared<Holds>()) {}

void WorkerLink::RetryAfter(int64_t delay, std::function<void(WorkerLink&)> what) {
  context_.timers->ScheduleAfter(delay, [link = weak_from_this(), what = std::move(what)] {
    if (const auto locked = link.lock()) what(*locked);
  });
}

int64_t WorkerLink::ReloadDelay(uint32_t num_failures) {
  int64_t delay = kFirstReloadMicros;
  for (uint32_t i = 1; i < num_failures && delay < kLastReloadMicros; ++i) delay *= 2;
  return std::min(delay, kLastReloadMicros);
}

// --- The session's life ---

void WorkerLink::Connect() {
  uint64_t session;
  {
    MutexLock lock(mutex_);
    if (shut_down_ || sink_ != nullptr) return;
    session = ++session_;
    opened_ = false;
    heard_at_ = answered_at_ = context_.timers->Now();
  }
  std::shared_ptr<WorkerConnector::Sink> sink = connector_->OpenSession(
      std::make_shared<SessionHandler>(weak_from_this(), session, Holds::Take(holds_)));
  bool needed = false;
  {
    MutexLock lock(mutex_);
    needed = !shut_down_ && session == session_ && closed_session_ < session;
    if (needed) sink_ = sink;
  }
  if (!needed) return sink->Close(absl::CancelledError("the session is not needed any more"));
  // A session of this link alone: two addresses of one worker do not take each other's.
  SessionRequest open;
  open.mutable_open()->set_coordinator_id(absl::StrCat(context_.coordinator_id, "/", number_));
  open.mutable_open()->set_protocol(1);
  open.mutable_open()->set_ends_call(true);
  sink->Write(std::move(open));
}

void WorkerLink::OnOpened(uint64_t session, const worker::v1::Opened& opened) {
  {
    MutexLock lock(mutex_);
    // A second one says nothing new: the session is with the process that opened it.
    if (!IsLive(session) || opened_) return;
  }
  absl::Status status = CheckOpened(opened);
  if (status.ok()) status = context_.admit(*this, opened);
  if (!status.ok()) {
    std::shared_ptr<WorkerConnector::Sink> sink;
    bool is_news = false;
    {
      MutexLock lock(mutex_);
      if (!IsLive(session)) return;
      is_news = SetWhy(status);
      sink = sink_;
    }
    if (is_news) {
      LogWarning(absl::StrCat("worker at ", address_, " is not taken: ", status.message()));
    }
    if (sink != nullptr) sink->Close(status);
    return;
  }
  bool fetch = false;
  uint32_t num_failures = 0;
  std::vector<uint64_t> lost_keys;
  std::shared_ptr<WorkerConnector::Sink> sink;
  {
    MutexLock lock(mutex_);
    if (!IsLive(session)) return;
    opened_ = true;
    const bool same_process = incarnation_ == opened.incarnation();
    incarnation_ = opened.incarnation();
    info_ = opened.worker();
    info_.DiscardUnknownFields();  // of any size, and View copies it
    lost_keys.swap(lost_keys_);
    if (!same_process) {
      lost_keys.clear();
      model_.reset();
      num_load_failures_ = 0;
    }
    fetch = model_ == nullptr;
    num_failures = num_load_failures_;
    why_ = fetch ? "loading the model's files" : "";
    sink = sink_;
  }
  for (const uint64_t key : lost_keys) {
    if (sink != nullptr) WriteCancel(key, sink.get());
  }
  if (!fetch) return;
  if (num_failures == 0) return FetchModel(session);
  RetryAfter(ReloadDelay(num_failures), [session](WorkerLink& link) { link.FetchModel(session); });
}

void WorkerLink::FetchModel(uint64_t session) {
  std::string model;
  {
    MutexLock lock(mutex_);
    if (session != session_ || !opened_) return;
    model = info_.model();
  }
  WorkerConnector::CancelFetch cancel =
      connector_->FetchFiles(model, [link = weak_from_this(), session,
                                     hold = Holds::Take(holds_)](absl::StatusOr<ModelFiles> files) {
        if (const auto locked = link.lock()) locked->OnFiles(session, std::move(files));
      });
  {
    MutexLock lock(mutex_);
    if (session == session_ && opened_) {
      cancel_fetch_ = std::move(cancel);
      return;
    }
  }
  cancel();  // the session ended meanwhile
}

void WorkerLink::AwaitName(uint64_t session, const std::string& refused_digest) {
  std::string name;
  {
    MutexLock lock(mutex_);
    if (session != session_ || !opened_) return;
    name = info_.model();
  }
  if (!context_.catalog->IsTaken(name, refused_digest)) return FetchModel(session);
  RetryAfter(kRetryMicros, [session, refused_digest](WorkerLink& link) {
    link.AwaitName(session, refused_digest);
  });
}

void WorkerLink::OnFiles(uint64_t session, absl::StatusOr<ModelFiles> files) {
  if (!files.ok()) return OnModel(session, files.status(), "");
  std::string name;
  {
    MutexLock lock(mutex_);
    name = info_.model();
  }
  const bool posted = context_.loader->Post([link = weak_from_this(), catalog = context_.catalog,
                                             session, name, files = *std::move(files)] {
    const auto model = catalog->Acquire(name, files);
    const bool refused = absl::IsFailedPrecondition(model.status());
    const auto locked = link.lock();
    if (locked != nullptr) locked->OnModel(session, model, refused ? FilesDigest(files) : "");
  });
  if (!posted) OnModel(session, absl::ResourceExhaustedError("too many models are loading"), "");
}

void WorkerLink::OnModel(uint64_t session,
                         const absl::StatusOr<std::shared_ptr<const ServedModel>>& model,
                         const std::string& refused_digest) {
  bool is_news = false;
  int64_t delay = 0;
  {
    MutexLock lock(mutex_);
    if (session != session_ || !opened_) return;
    if (model.ok()) {
      model_ = *model;
      why_.clear();
      was_ready_ = true;
      num_load_failures_ = 0;
    } else {
      is_news = SetWhy(model.status());
      delay = ReloadDelay(++num_load_failures_);
    }
  }
  if (model.ok()) {
    const WorkerView view = View();
    LogInfo(absl::StrCat("worker ", view.info.name(), " at ", address_,
                         " is ready: ", view.info.model(), ", ",
                         v1::Engine_Name(view.info.engine()), ", ", view.info.dtype()));
    return;
  }
  if (is_news) {
    LogWarning(absl::StrCat("worker at ", address_, " cannot serve: ", model.status().message()));
  }
  if (!refused_digest.empty()) return AwaitName(session, refused_digest);
  RetryAfter(delay, [session](WorkerLink& link) { link.FetchModel(session); });
}

bool WorkerLink::SetWhy(const absl::Status& status) {
  const std::string why = Printable(status.message(), kMaxWhyBytes);
  why_ = why;
  return std::exchange(reported_why_, why) != why;
}

bool WorkerLink::EndSession(WorkerLoss loss, const absl::Status& status,
                            std::optional<uint64_t> which) {
  Taken requests;
  std::shared_ptr<WorkerConnector::Sink> sink;
  WorkerConnector::CancelFetch cancel_fetch;
  {
    MutexLock lock(mutex_);
    if (which.has_value() && !IsLive(*which)) return false;
    closed_session_ = session_;
    cancel_fetch = std::exchange(cancel_fetch_, nullptr);
    sink = std::move(sink_);
    sink_.reset();
    opened_ = false;
    requests = TakeRequests();
    load_.Clear();
    since_progress_ = 0;
    model_.reset();  // other files may take the name while the worker is gone
    for (const auto& [key, request] : requests) lost_keys_.push_back(key);
  }
  if (cancel_fetch != nullptr) cancel_fetch();
  if (sink != nullptr) sink->Close(status);
  for (auto& [key, request] : requests) {
    request.receiver->OnWorkerLost(request.attempt, loss, status);
  }
  return true;
}

void WorkerLink::OnClosed(uint64_t session, const absl::Status& status) {
  const std::string why = Printable(status.message(), kMaxWhyBytes);
  WorkerLoss loss = WorkerLoss::kGone;
  {
    MutexLock lock(mutex_);
    if (!IsLive(session)) return;
    // Keepalive may be the first to give up a worker that was silent. That is no death.
    if (IsUnheard(context_.timers->Now(), kSilenceMicros)) loss = WorkerLoss::kUnheard;
    if (load_.draining()) loss = WorkerLoss::kDrained;
    if (opened_) {
      LogWarning(absl::StrCat("worker ", info_.name(), " at ", address_, " is lost: ", why));
    }
    if (opened_ || why_.empty() || why_ == "connecting") why_ = why;
  }
  // Not one that has taken its place meanwhile.
  const auto lost = absl::UnavailableError(absl::StrCat("the worker is lost: ", why));
  if (!EndSession(loss, lost, session)) return;
  RetryAfter(kRetryMicros, [](WorkerLink& link) { link.Connect(); });
}

void WorkerLink::Shutdown(const absl::Status& status) {
  {
    MutexLock lock(mutex_);
    shut_down_ = true;
    why_ = std::string(status.message());
  }
  EndSession(WorkerLoss::kUnheard, status);
}

void WorkerLink::WaitUntilReleased() { holds_->WaitUntilNone(); }

void WorkerLink::Restart(const std::string& why) {
  EndSession(WorkerLoss::kUnheard, absl::UnavailableError(why));
  Connect();
}

void WorkerLink::OnEvent(uint64_t session, SessionEvent event) {
  {
    MutexLock lock(mutex_);
    if (!IsLive(session)) return;
    heard_at_ = context_.timers->Now();
    if (event.has_pong() || (event.has_opened() && !opened_)) answered_at_ = heard_at_;
    if (event.has_pong()) {
      constexpr uint64_t kMostMs = 86'400'000;  // far beyond kHangMicros
      since_progress_ =
          static_cast<int64_t>(std::min(event.pong().since_progress_ms(), kMostMs)) * 1000;
    }
    if (!opened_ && !event.has_opened() && !event.has_load()) return;
  }
  switch (event.event_case()) {
    case SessionEvent::kOpened:
      return OnOpened(session, event.opened());
    case SessionEvent::kStepOutput:
      return OnStepOutput(event.step_output());
    case SessionEvent::kRejected:
      return OnRejected(event.rejected());
    case SessionEvent::kLoad:
      return OnLoad(session, event.load());
    case SessionEvent::kClosing:
      return OnClosed(session, absl::UnavailableError("it has ended"));
    case SessionEvent::kPong:
    case SessionEvent::EVENT_NOT_SET:
      return;  // the last: of a newer version
  }
}

}  // namespace quire
