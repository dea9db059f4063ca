#include "coordinator/worker_client/worker_link.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/rpc_status.h"

namespace quire {

using worker::v1::SessionEvent;
using worker::v1::SessionRequest;
using worker::v1::StepOutput;

namespace {

// What a worker says of a failure, made fit for a client: an error, with words.
absl::Status FailureOf(int32_t code, const std::string& message) {
  constexpr int32_t kLastCode = 16;  // UNAUTHENTICATED
  if (code <= 0 || code > kLastCode) {
    return absl::InternalError(
        absl::StrCat("the worker failed with the unknown status ", code, ": ", message));
  }
  return absl::Status(static_cast<absl::StatusCode>(code),
                      message.empty() ? "the worker gave no reason" : message);
}

// The end of a choice: as the worker says it, or a failure where it says neither how it ended nor
// why.
worker::v1::Finish Checked(const worker::v1::Finish& finish) {
  const bool failed = finish.status_code() != 0;
  const bool ended =
      finish.reason() == v1::Finished::STOP || finish.reason() == v1::Finished::LENGTH;
  if (ended && !failed) return finish;
  const absl::Status status = FailureOf(finish.status_code(), finish.status_message());
  worker::v1::Finish checked = finish;
  checked.set_reason(v1::Finished::ABORTED);
  checked.set_status_code(static_cast<int32_t>(status.code()));
  checked.set_status_message(std::string(status.message()));
  return checked;
}

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
  sink->Write(std::move(open));
}

void WorkerLink::OnOpened(uint64_t session, const worker::v1::Opened& opened) {
  if (absl::Status status = context_.admit(*this, opened); !status.ok()) {
    std::shared_ptr<WorkerConnector::Sink> sink;
    bool is_news = false;
    {
      MutexLock lock(mutex_);
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
    if (session != session_ || closed_session_ >= session) return;
    opened_ = true;
    const bool same_process = incarnation_ == opened.incarnation();
    incarnation_ = opened.incarnation();
    info_ = opened.worker();
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
    SessionRequest cancel;
    cancel.mutable_cancel()->set_key(key);
    if (sink != nullptr) sink->Write(std::move(cancel));
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
  const std::string why(status.message());
  why_ = why;
  return std::exchange(reported_why_, why) != why;
}

WorkerLink::Taken WorkerLink::TakeRequests() {
  Taken taken(std::make_move_iterator(requests_.begin()), std::make_move_iterator(requests_.end()));
  std::sort(taken.begin(), taken.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  requests_.clear();
  num_sequences_ = 0;
  return taken;
}

void WorkerLink::EndSession(WorkerLoss loss, const absl::Status& status) {
  Taken requests;
  std::shared_ptr<WorkerConnector::Sink> sink;
  WorkerConnector::CancelFetch cancel_fetch;
  {
    MutexLock lock(mutex_);
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
}

void WorkerLink::OnClosed(uint64_t session, const absl::Status& status) {
  {
    MutexLock lock(mutex_);
    if (session != session_ || closed_session_ >= session) return;
    if (opened_) {
      LogWarning(
          absl::StrCat("worker ", info_.name(), " at ", address_, " is lost: ", status.message()));
    }
    if (opened_ || why_.empty() || why_ == "connecting") why_ = std::string(status.message());
  }
  EndSession(WorkerLoss::kGone,
             absl::UnavailableError(absl::StrCat("the worker is lost: ", status.message())));
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

void WorkerLink::Tick() {
  std::shared_ptr<WorkerConnector::Sink> sink;
  SessionRequest ping;
  absl::Status lost;
  bool hangs = false;
  {
    MutexLock lock(mutex_);
    if (!opened_) return;
    sink = sink_;
    ping.mutable_ping()->set_nonce(++pings_);
    const int64_t now = context_.timers->Now();
    const bool stood_still = now - ticked_at_ > kMaxTickMicros;
    ticked_at_ = now;
    // Words may lie unread then.
    if (stood_still) heard_at_ = answered_at_ = now;
    if (const std::string why = SuspectWhy(now); !why.empty()) {
      lost = absl::UnavailableError(absl::StrCat("the worker ", why));
      hangs = !IsUnheard(now);
    }
  }
  if (!lost.ok()) TakeRequestsAway(hangs ? WorkerLoss::kHangs : WorkerLoss::kUnheard, lost);
  if (sink != nullptr) sink->Write(std::move(ping));
}

bool WorkerLink::IsUnheard(int64_t now) const {
  return now - heard_at_ > kSilenceMicros || now - answered_at_ > kDeafMicros;
}

std::string WorkerLink::SuspectWhy(int64_t now) const {
  const auto ms = [](int64_t micros) { return absl::StrCat(micros / 1000, " ms"); };
  if (now - heard_at_ > kSilenceMicros) {
    return absl::StrCat("has been silent for ", ms(now - heard_at_));
  }
  if (now - answered_at_ > kDeafMicros) {
    return absl::StrCat("has answered no ping for ", ms(now - answered_at_));
  }
  if (since_progress_ > kHangMicros) {
    return absl::StrCat("has an engine that has settled no step for ", ms(since_progress_));
  }
  return "";
}

void WorkerLink::TakeRequestsAway(WorkerLoss loss, const absl::Status& status) {
  Taken requests;
  std::shared_ptr<WorkerConnector::Sink> sink;
  std::string name;
  {
    MutexLock lock(mutex_);
    requests = TakeRequests();
    sink = sink_;
    name = info_.name();
  }
  if (requests.empty()) return;
  LogWarning(absl::StrCat("worker ", name, " at ", address_, " is given up with ", requests.size(),
                          " requests: ", status.message()));
  for (const auto& [key, request] : requests) {
    SessionRequest cancel;
    cancel.mutable_cancel()->set_key(key);
    if (sink != nullptr) sink->Write(std::move(cancel));
  }
  for (auto& [key, request] : requests) {
    request.receiver->OnWorkerLost(request.attempt, loss, status);
  }
}

WorkerView WorkerLink::View() const {
  MutexLock lock(mutex_);
  WorkerView view;
  view.number = number_;
  view.address = address_;
  view.incarnation = incarnation_;
  view.info = info_;
  view.load = load_;
  view.model = model_;
  view.why = why_;
  const std::string suspect = SuspectWhy(context_.timers->Now());
  if (!opened_) {
    view.state = was_ready_ ? v1::WorkerLoad::DEAD : v1::WorkerLoad::STARTING;
  } else if (model_ == nullptr) {
    view.state = v1::WorkerLoad::STARTING;
  } else if (load_.draining()) {
    view.state = v1::WorkerLoad::DRAINING;
    view.why = "draining";
  } else if (!suspect.empty()) {
    view.state = v1::WorkerLoad::SUSPECT;
    view.why = suspect;
  } else {
    view.state = v1::WorkerLoad::READY;
    view.why.clear();
  }
  WorkerSnapshot& snapshot = view.snapshot;
  snapshot.worker = number_;
  snapshot.running = load_.running();
  snapshot.waiting = load_.waiting();
  snapshot.blocks_free = load_.blocks_free();
  snapshot.blocks_cached = load_.blocks_cached();
  snapshot.blocks_total = info_.kv().num_blocks();
  const uint32_t reported = load_.running() + load_.waiting();
  snapshot.unreported = num_sequences_ > reported ? num_sequences_ - reported : 0;
  snapshot.max_num_seqs = info_.limits().max_num_seqs();
  snapshot.max_queue = info_.limits().max_queue();
  snapshot.block_size = info_.kv().block_size();
  return view;
}

// --- Requests ---

bool WorkerLink::Submit(worker::v1::Submit submit, std::shared_ptr<TokenReceiver> receiver) {
  std::shared_ptr<WorkerConnector::Sink> sink;
  SessionRequest message;
  {
    MutexLock lock(mutex_);
    if (!opened_ || sink_ == nullptr) return false;
    sink = sink_;
    Request& request = requests_[submit.key()];
    num_sequences_ -= request.num_running;  // of an attempt before, whose end did not come
    request.receiver = std::move(receiver);
    request.attempt = submit.attempt();
    request.num_running = submit.parameters().n();
    request.running = (1u << submit.parameters().n()) - 1;
    for (int i = 0; i < submit.choice_finished_size(); ++i) {
      if (!submit.choice_finished(i)) continue;
      request.running &= ~(1u << i);
      --request.num_running;
    }
    num_sequences_ += request.num_running;
  }
  *message.mutable_submit() = std::move(submit);
  // A failure ends the session, and with it the request, by OnClosed.
  sink->Write(std::move(message));
  return true;
}

void WorkerLink::Cancel(worker::v1::Cancel cancel) {
  std::shared_ptr<WorkerConnector::Sink> sink;
  {
    MutexLock lock(mutex_);
    if (sink_ == nullptr || !requests_.contains(cancel.key())) return;
    sink = sink_;
  }
  SessionRequest message;
  *message.mutable_cancel() = std::move(cancel);
  sink->Write(std::move(message));
}

std::shared_ptr<TokenReceiver> WorkerLink::Receiver(uint64_t key, uint32_t attempt) {
  const auto found = requests_.find(key);
  if (found == requests_.end() || found->second.attempt != attempt) return nullptr;
  return found->second.receiver;
}

void WorkerLink::OnEvent(uint64_t session, SessionEvent event) {
  {
    MutexLock lock(mutex_);
    if (session != session_ || closed_session_ >= session) return;
    heard_at_ = context_.timers->Now();
    if (event.has_pong() || event.has_opened()) answered_at_ = heard_at_;
    if (event.has_pong()) {
      since_progress_ = static_cast<int64_t>(event.pong().since_progress_ms()) * 1000;
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
    case SessionEvent::kPong:
    case SessionEvent::EVENT_NOT_SET:
      return;  // the last: of a newer version
  }
}

void WorkerLink::OnLoad(uint64_t session, const worker::v1::Load& load) {
  std::map<uint64_t, std::pair<std::shared_ptr<TokenReceiver>, uint32_t>> receivers;  // by key
  {
    MutexLock lock(mutex_);
    if (session != session_) return;
    const bool starts_draining = load.draining() && !load_.draining();
    load_ = load;
    if (starts_draining) {
      for (const auto& [key, request] : requests_) {
        receivers.emplace(key, std::pair(request.receiver, request.attempt));
      }
    }
  }
  for (const auto& [key, receiver] : receivers) receiver.first->OnWorkerDraining(receiver.second);
}

void WorkerLink::OnStepOutput(const StepOutput& output) {
  const int num_entries = output.key_size();
  if (output.attempt_size() != num_entries || output.first_index_size() != num_entries ||
      (output.choice_size() != 0 && output.choice_size() != num_entries) ||
      (output.num_tokens_size() != 0 && output.num_tokens_size() != num_entries)) {
    LogError(absl::StrCat("worker at ", address_, " sent arrays that do not match: ignored"));
    return;
  }
  std::vector<std::shared_ptr<TokenReceiver>> entries(num_entries);
  std::vector<std::shared_ptr<TokenReceiver>> logprobs;
  std::vector<std::shared_ptr<TokenReceiver>> notices;
  std::vector<std::shared_ptr<TokenReceiver>> finishes;
  {
    MutexLock lock(mutex_);
    for (int i = 0; i < num_entries; ++i) entries[i] = Receiver(output.key(i), output.attempt(i));
    const auto any_attempt = [this](uint64_t key) QUIRE_REQUIRES(mutex_) {
      const auto found = requests_.find(key);
      return found == requests_.end() ? nullptr : found->second.receiver;
    };
    for (const auto& entry : output.logprobs()) logprobs.push_back(any_attempt(entry.key()));
    for (const auto& entry : output.notices()) notices.push_back(any_attempt(entry.key()));
    for (const auto& finish : output.finishes()) {
      finishes.push_back(Receiver(finish.key(), finish.attempt()));
      const auto found = requests_.find(finish.key());
      if (finishes.back() == nullptr) continue;
      const uint32_t bit = finish.choice() < 32 ? 1u << finish.choice() : 0;
      if ((found->second.running & bit) == 0) {  // it has no such choice, or that has ended
        finishes.back() = nullptr;
        continue;
      }
      found->second.running &= ~bit;
      --num_sequences_;
      if (--found->second.num_running == 0) requests_.erase(found);
    }
  }
  int first_token = 0;
  for (int i = 0; i < num_entries; ++i) {
    const uint32_t choice = output.choice_size() == 0 ? 0 : output.choice(i);
    const uint32_t num_tokens = output.num_tokens_size() == 0 ? 1 : output.num_tokens(i);
    if (num_tokens > static_cast<uint32_t>(output.token_ids_size() - first_token)) {
      LogError(absl::StrCat("worker at ", address_, " sent fewer token ids than it announced"));
      break;
    }
    if (entries[i] != nullptr) {
      entries[i]->OnTokens(output.attempt(i), choice, output.first_index(i),
                           absl::MakeSpan(output.token_ids().data() + first_token, num_tokens));
    }
    first_token += static_cast<int>(num_tokens);
  }
  for (int i = 0; i < output.logprobs_size(); ++i) {
    if (logprobs[i] != nullptr) logprobs[i]->OnLogprobs(output.logprobs(i));
  }
  for (int i = 0; i < output.notices_size(); ++i) {
    if (notices[i] != nullptr) notices[i]->OnNotice(output.notices(i).notice());
  }
  for (int i = 0; i < output.finishes_size(); ++i) {
    if (finishes[i] != nullptr) finishes[i]->OnFinish(Checked(output.finishes(i)));
  }
  for (const auto* group : {&entries, &logprobs, &notices, &finishes}) {
    for (const auto& receiver : *group) {
      if (receiver != nullptr) receiver->OnMessageEnd();
    }
  }
}

void WorkerLink::OnRejected(const worker::v1::Rejected& rejected) {
  std::shared_ptr<TokenReceiver> receiver;
  {
    MutexLock lock(mutex_);
    receiver = Receiver(rejected.key(), rejected.attempt());
    if (receiver == nullptr) return;
    const auto found = requests_.find(rejected.key());
    num_sequences_ -= found->second.num_running;
    requests_.erase(found);
  }
  absl::Status status = FailureOf(rejected.status_code(), rejected.status_message());
  if (rejected.retry_after_ms() > 0) status = WithRetryDelay(status, rejected.retry_after_ms());
  receiver->OnRejected(rejected.attempt(), status);
}

}  // namespace quire
