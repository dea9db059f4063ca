#include "worker/rpc/session_table.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/logging.h"
#include "common/rpc_status.h"
#include "worker/rpc/convert.h"

namespace quire {

using worker::v1::SessionEvent;
using worker::v1::SessionRequest;

namespace {

constexpr size_t kMaxCoordinatorIdBytes = 128;
// Names in a Load; the requests of further tenants come here to be refused.
constexpr size_t kMaxTenantsOverShare = 64;

}  // namespace

// One connection: knows its session once Open has come. Its calls come one at a time.
class SessionTable::Connection final : public SessionTable::Handler {
 public:
  Connection(SessionTable* table, std::shared_ptr<Sink> sink)
      : table_(table), sink_(std::move(sink)) {}

  void OnMessage(SessionRequest message) override {
    if (!session_.has_value()) {
      if (!message.has_open()) {
        sink_->Close(absl::FailedPreconditionError("the first message of a session must be Open"));
        return;
      }
      table_->HandleOpen(this, message.open());
      return;
    }
    switch (message.request_case()) {
      case SessionRequest::kSubmit:
        return table_->HandleSubmit(*this, message.submit());
      case SessionRequest::kCancel:
        return table_->HandleCancel(*this, message.cancel());
      case SessionRequest::kReclaim:
        return table_->HandleReclaim(*this, message.reclaim());
      case SessionRequest::kPing:
        return table_->HandlePing(*this, message.ping());
      case SessionRequest::kOpen:            // a second one says nothing new
      case SessionRequest::REQUEST_NOT_SET:  // of a newer version
        return;
    }
  }
  void OnClosed(const absl::Status&) override {
    if (session_.has_value()) table_->HandleLost(*this);
  }

 private:
  friend class SessionTable;
  SessionTable* const table_;
  const std::shared_ptr<Sink> sink_;
  std::optional<uint32_t> session_;
  uint64_t number_ = 0;
};

SessionTable::SessionTable(Options options)
    : options_(std::move(options)),
      info_(options_.info),
      gate_({options_.info.limits().max_num_seqs(), options_.info.limits().max_queue(),
             options_.tenant_weights}) {
  rate_since_ = options_.clock();
}
SessionTable::~SessionTable() = default;

void SessionTable::SetName(const std::string& name) {
  MutexLock lock(mutex_);
  info_.set_name(name);
}

worker::v1::WorkerInfo SessionTable::info() const {
  MutexLock lock(mutex_);
  return info_;
}

std::unique_ptr<SessionTable::Handler> SessionTable::Connect(std::shared_ptr<Sink> sink) {
  return std::make_unique<Connection>(this, std::move(sink));
}

void SessionTable::HandleOpen(Connection* connection, const worker::v1::Open& open) {
  const size_t id_bytes = open.coordinator_id().size();
  if (id_bytes == 0 || id_bytes > kMaxCoordinatorIdBytes || open.protocol() != 1) {
    connection->sink_->Close(absl::FailedPreconditionError(absl::StrCat(
        "Open needs a coordinator_id of 1 to ", kMaxCoordinatorIdBytes,
        " bytes and protocol 1; it has ", id_bytes, " bytes and protocol ", open.protocol())));
    return;
  }
  std::shared_ptr<Sink> replaced;
  {
    MutexLock lock(mutex_);
    if (closed_) {
      connection->sink_->Close(absl::UnavailableError("the worker ends"));
      return;
    }
    const auto [entry, is_new] = by_coordinator_.try_emplace(open.coordinator_id(), next_session_);
    if (is_new) {
      auto session = std::make_unique<Session>();
      session->number = next_session_++;
      session->coordinator_id = open.coordinator_id();
      sessions_[session->number] = std::move(session);
    }
    Session& session = *sessions_.at(entry->second);
    replaced = session.sink;
    // What is still alive belongs to no connection until it is reclaimed.
    Lose(session);
    session.sink = connection->sink_;
    session.ends_call = open.ends_call();
    session.connection = connection->number_ = next_connection_++;
    connection->session_ = session.number;
    SessionEvent event;
    event.mutable_opened()->set_incarnation(options_.incarnation);
    *event.mutable_opened()->mutable_worker() = info_;
    Send(session, std::move(event));
    SendLoad(session);
  }
  if (replaced != nullptr) replaced->Close(absl::AbortedError("superseded by a newer connection"));
}

void SessionTable::HandleSubmit(const Connection& connection, const worker::v1::Submit& submit) {
  const Micros now = options_.clock();
  absl::StatusOr<EngineRequest> converted = ToEngineRequest(submit, *connection.session_, now);
  MutexLock lock(mutex_);
  Session* session = CarriedBy(connection);
  if (session == nullptr) return;
  if (!converted.ok()) return Reject(*session, submit.key(), submit.attempt(), converted.status());
  if (const auto found = session->requests.find(submit.key()); found != session->requests.end()) {
    Request* living = found->second.get();
    const bool same = living->attempt == submit.attempt();
    if (living->attempt > submit.attempt() || (same && !living->orphaned_at.has_value())) return;
    if (same && !living->has_logprobs) {
      std::vector<uint32_t> next_index;
      for (const Choice& choice : living->choices) next_index.push_back(choice.first_index);
      return Adopt(*session, living, next_index);
    }
    Drop(*session, living, absl::AbortedError("superseded by a newer attempt"), nullptr);
  }
  if (draining_) {
    return Reject(*session, submit.key(), submit.attempt(),
                  absl::UnavailableError("the worker is draining"));
  }
  // The same request, placed anew after its coordinator was lost.
  if (const auto found = by_request_id_.find(submit.request_id()); found != by_request_id_.end()) {
    Session& owner = *sessions_.at(found->second.session);
    Request* orphan = owner.requests.at(found->second.request).get();
    if (orphan->orphaned_at.has_value()) {
      Drop(owner, orphan, absl::AbortedError("superseded by another coordinator"), nullptr);
    }
  }
  auto request = std::make_unique<Request>();
  request->key = submit.key();
  request->attempt = submit.attempt();
  request->placement = converted->attempt = next_placement_++;
  request->request_id = submit.request_id();
  request->tenant = submit.tenant();
  request->num_prompt_tokens = static_cast<uint32_t>(converted->prompt.size());
  request->arrived_at = now;
  request->has_logprobs =
      converted->params.logprobs.has_value() || converted->params.prompt_logprobs.has_value();
  request->choices.resize(converted->n);
  for (uint32_t i = 0; i < converted->n; ++i) {
    Choice& choice = request->choices[i];
    if (i < converted->emitted.size()) {
      choice.first_index = static_cast<uint32_t>(converted->emitted[i].size());
    }
    choice.finished = i < converted->choice_finished.size() && converted->choice_finished[i];
  }
  const auto num_sequences =
      static_cast<uint32_t>(std::count_if(request->choices.begin(), request->choices.end(),
                                          [](const Choice& choice) { return !choice.finished; }));
  absl::Status status = CheckShare(*session, num_sequences);
  // Here, since the engine answers after its step, which may take long.
  if (status.ok() && !gate_.Enter(request->tenant, num_sequences)) {
    status = absl::ResourceExhaustedError("the worker's queue is full");
  }
  if (!status.ok()) return Reject(*session, submit.key(), submit.attempt(), status);
  status = inbox_->PostSubmit(*std::move(converted));
  if (!status.ok()) {
    gate_.Leave(request->tenant, num_sequences, now);
    return Reject(*session, submit.key(), submit.attempt(), status);
  }
  if (!submit.request_id().empty()) {
    by_request_id_[submit.request_id()] = {session->number, submit.key()};
  }
  session->requests[submit.key()] = std::move(request);
  session->num_sequences += num_sequences;
  ++num_requests_;
}

void SessionTable::HandleCancel(const Connection& connection, const worker::v1::Cancel& cancel) {
  MutexLock lock(mutex_);
  Session* session = CarriedBy(connection);
  if (session == nullptr) return;
  const auto found = session->requests.find(cancel.key());
  if (found == session->requests.end() || found->second->cancelled) return;
  Request& request = *found->second;
  if (cancel.moved()) ++num_moved_;
  std::optional<uint32_t> stop_index;
  if (cancel.has_choice()) {
    if (cancel.choice() >= request.choices.size()) return;
    Choice& choice = request.choices[cancel.choice()];
    if (choice.finished || std::exchange(choice.cancelled, true)) return;
    if (cancel.has_stop_index()) stop_index = cancel.stop_index();
    inbox_->PostCancel({session->number, request.key}, cancel.choice(), stop_index);
    return;
  }
  if (request.orphaned_at.has_value()) {
    return Drop(*session, &request, absl::CancelledError("cancelled"), nullptr);
  }
  request.cancelled = true;
  inbox_->PostCancel({session->number, request.key}, std::nullopt, std::nullopt);
}

void SessionTable::HandlePing(const Connection& connection, const worker::v1::Ping& ping) {
  SessionEvent event;
  event.mutable_pong()->set_nonce(ping.nonce());
  event.mutable_pong()->set_last_step(inbox_->steps());
  event.mutable_pong()->set_since_progress_ms(inbox_->SinceProgress() / 1000);
  MutexLock lock(mutex_);
  if (Session* session = CarriedBy(connection); session != nullptr)
    Send(*session, std::move(event));
}

void SessionTable::HandleLost(const Connection& connection) {
  MutexLock lock(mutex_);
  if (Session* session = CarriedBy(connection); session != nullptr) Lose(*session);
}

SessionTable::Session* SessionTable::CarriedBy(const Connection& connection) {
  const auto found = sessions_.find(*connection.session_);
  if (found == sessions_.end()) return nullptr;
  Session* session = found->second.get();
  return session->sink != nullptr && session->connection == connection.number_ ? session : nullptr;
}

SessionTable::Request* SessionTable::Find(RequestKey key, uint32_t placement) {
  const auto session = sessions_.find(key.session);
  if (session == sessions_.end()) return nullptr;
  const auto found = session->second->requests.find(key.request);
  if (found == session->second->requests.end() || found->second->placement != placement)
    return nullptr;
  return found->second.get();
}

void SessionTable::Send(Session& session, SessionEvent event) {
  if (session.sink == nullptr || session.sink->Write(std::move(event))) return;
  LogWarning(absl::StrCat("coordinator ", session.coordinator_id,
                          " takes no more: its connection ended, or it has not read for long"));
  Lose(session);
}

void SessionTable::Lose(Session& session) {
  session.sink.reset();
  unconnected_.NotifyAll();
  const Micros now = options_.clock();
  for (auto& [key, request] : session.requests) {
    if (!request->orphaned_at.has_value()) request->orphaned_at = now;
  }
}

void SessionTable::Reject(Session& session, uint64_t key, uint32_t attempt,
                          const absl::Status& status) {
  SessionEvent event;
  worker::v1::Rejected& rejected = *event.mutable_rejected();
  rejected.set_key(key);
  rejected.set_attempt(attempt);
  rejected.set_status_code(static_cast<int>(status.code()));
  rejected.set_status_message(std::string(status.message()));
  if (absl::IsResourceExhausted(status)) {
    rejected.set_retry_after_ms(gate_.RetryAfterMs(options_.clock()));
    if (options_.on_refused) options_.on_refused();
  }
  Send(session, std::move(event));
}

absl::Status SessionTable::CheckShare(const Session& session, uint32_t num_sequences) const {
  const uint64_t capacity = uint64_t{info_.limits().max_num_seqs()} + info_.limits().max_queue();
  uint64_t num_connected = 0;
  uint64_t held = num_sequences;
  for (const auto& [number, other] : sessions_) {
    num_connected += other->sink != nullptr ? 1 : 0;
    held += other->num_sequences;
  }
  if (num_connected < 2 || capacity == 0) return absl::OkStatus();
  // Else one of many choices would be refused for as long as another coordinator is there.
  if (session.num_sequences == 0) return absl::OkStatus();
  const uint64_t own = uint64_t{session.num_sequences} + num_sequences;
  if (own * num_connected <= capacity || held <= capacity - capacity / 4) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("this coordinator has ", session.num_sequences, " of the ", capacity,
                   " sequences that the worker takes, and ", num_connected, " share them"));
}

void SessionTable::EndChoice(Session* session, const Request& request, Choice* choice,
                             worker::v1::Finish finish) {
  if (!std::exchange(choice->finished, true)) {
    --session->num_sequences;
    gate_.Leave(request.tenant, 1, options_.clock());
  }
  choice->finish = std::move(finish);
}

std::vector<SessionTable::Request*> SessionTable::Select(
    const Session& session, const std::function<bool(const Request&)>& wanted) {
  std::vector<Request*> selected;
  for (const auto& [key, request] : session.requests) {
    if (wanted(*request)) selected.push_back(request.get());
  }
  std::sort(selected.begin(), selected.end(),
            [](const Request* a, const Request* b) { return a->key < b->key; });
  return selected;
}

void SessionTable::EraseIfDone(Session& session, Request* request) {
  // An orphan's end waits for the coordinator that may reclaim it.
  if (request->orphaned_at.has_value()) return;
  const bool done = std::all_of(request->choices.begin(), request->choices.end(),
                                [](const Choice& choice) { return choice.finished; });
  if (!done) return;
  Report(session, *request);
  if (const auto found = by_request_id_.find(request->request_id);
      found != by_request_id_.end() && found->second == RequestKey{session.number, request->key}) {
    by_request_id_.erase(found);
  }
  session.requests.erase(request->key);
  if (--num_requests_ == 0) idle_.NotifyAll();
}

void SessionTable::Drop(Session& session, Request* request, const absl::Status& why,
                        worker::v1::StepOutput* ends) {
  inbox_->PostCancel({session.number, request->key}, std::nullopt, std::nullopt);
  request->orphaned_at.reset();
  for (uint32_t i = 0; i < request->choices.size(); ++i) {
    Choice& choice = request->choices[i];
    if (choice.finished) continue;
    worker::v1::Finish finish;
    finish.set_key(request->key);
    finish.set_attempt(request->attempt);
    finish.set_choice(i);
    finish.set_reason(v1::Finished::ABORTED);
    finish.set_status_code(static_cast<int>(why.code()));
    finish.set_status_message(std::string(why.message()));
    finish.mutable_usage()->set_prompt_tokens(request->num_prompt_tokens);
    finish.mutable_usage()->set_output_tokens(choice.next_index());
    if (ends != nullptr) *ends->add_finishes() = finish;
    EndChoice(&session, *request, &choice, std::move(finish));
  }
  EraseIfDone(session, request);
}

void SessionTable::Report(const Session& session, const Request& request) {
  if (!options_.on_request_end) return;
  RequestRecord record;
  record.request_id = request.request_id;
  record.coordinator_id = session.coordinator_id;
  record.choices = static_cast<uint32_t>(request.choices.size());
  record.prompt_tokens = request.num_prompt_tokens;
  for (const Choice& choice : request.choices) {
    if (!choice.finish.has_value()) continue;
    const worker::v1::Finish& finish = *choice.finish;
    if (record.status.ok() && finish.status_code() != 0) {
      record.status = absl::Status(static_cast<absl::StatusCode>(finish.status_code()),
                                   finish.status_message());
    }
    record.cached_tokens += finish.usage().cached_tokens();
    record.output_tokens += finish.usage().output_tokens();
    record.queued =
        std::max(record.queued, static_cast<Micros>(finish.timings().queued_ms() * 1000));
  }
  if (request.first_token_at >= 0) record.first_token = request.first_token_at - request.arrived_at;
  record.total = options_.clock() - request.arrived_at;
  options_.on_request_end(record);
}

void SessionTable::OnRejected(RequestKey key, uint32_t placement, const absl::Status& status) {
  MutexLock lock(mutex_);
  Request* request = Find(key, placement);
  if (request == nullptr) return;
  Session& session = *sessions_.at(key.session);
  Reject(session, request->key, request->attempt, status);
  Drop(session, request, status, nullptr);
}

void SessionTable::OnLoad(const EngineLoad& load) {
  MutexLock lock(mutex_);
  load_.set_running(load.running);
  load_.set_waiting(load.waiting);
  load_.set_blocks_free(load.blocks_free);
  load_.set_blocks_cached(load.blocks_cached);
  load_.set_blocks_total(load.blocks_total);
  load_.set_kv_reserved_bytes(load.kv_reserved_bytes);
  load_.set_kv_used_bytes(load.kv_used_bytes);
  load_.set_draining(draining_);
  output_tokens_ = load.output_tokens;
  SendLoad();
  if (options_.on_load) options_.on_load(load_);
}

void SessionTable::SendLoad() {
  load_.set_ended_per_s(gate_.freed_per_s(options_.clock()));
  load_.clear_tenants_over_share();
  for (std::string& tenant : gate_.TenantsOverShare(kMaxTenantsOverShare)) {
    load_.add_tenants_over_share(std::move(tenant));
  }
  for (auto& [number, session] : sessions_) SendLoad(*session);
}

void SessionTable::SendLoad(Session& session) {
  uint32_t num_sequences = 0;
  for (const auto& [number, other] : sessions_) num_sequences += other->num_sequences;
  SessionEvent event;
  worker::v1::Load& load = *event.mutable_load();
  load = load_;
  // Those that are on their way to the engine wait as well.
  if (num_sequences > load.running() + load.waiting()) {
    load.set_waiting(num_sequences - load.running());
  }
  load.set_own_sequences(session.num_sequences);
  Send(session, std::move(event));
}

void SessionTable::Tick() {
  inbox_->PostRequestLoad();
  MutexLock lock(mutex_);
  const Micros now = options_.clock();
  if (now - rate_since_ >= 1'000'000) {
    load_.set_output_tokens_per_s(static_cast<double>(output_tokens_ - rate_tokens_) * 1e6 /
                                  static_cast<double>(now - rate_since_));
    rate_tokens_ = output_tokens_;
    rate_since_ = now;
  }
  // The engine answers after its step, which may take long; what it said last goes out meanwhile.
  SendLoad();
  for (auto& [number, session] : sessions_) {
    const auto is_expired = [&](const Request& request) {
      return request.orphaned_at.has_value() && now - *request.orphaned_at >= options_.orphan_grace;
    };
    for (Request* request : Select(*session, is_expired)) {
      Drop(*session, request, absl::CancelledError("its coordinator is gone"), nullptr);
    }
  }
  for (auto next = sessions_.begin(); next != sessions_.end();) {
    const auto current = next++;
    const Session& session = *current->second;
    if (session.sink != nullptr || !session.requests.empty()) continue;
    by_coordinator_.erase(session.coordinator_id);
    sessions_.erase(current);
  }
}

size_t SessionTable::StartDraining() {
  MutexLock lock(mutex_);
  draining_ = true;
  load_.set_draining(true);
  SendLoad();
  return num_requests_;
}

size_t SessionTable::num_moved() const {
  MutexLock lock(mutex_);
  return num_moved_;
}

size_t SessionTable::EndAll() {
  MutexLock lock(mutex_);
  const size_t num_ended = num_requests_;
  for (auto& [number, session] : sessions_) {
    const std::vector<Request*> living = Select(*session, [](const Request&) { return true; });
    if (living.empty()) continue;
    SessionEvent event;
    for (Request* request : living) {
      Drop(*session, request, absl::UnavailableError("the worker shut down"),
           event.mutable_step_output());
    }
    Send(*session, std::move(event));
  }
  return num_ended;
}

void SessionTable::CloseConnections() {
  std::vector<std::shared_ptr<Sink>> sinks;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    SessionEvent event;
    event.mutable_closing();
    for (const auto& [number, session] : sessions_) {
      if (session->ends_call) {
        Send(*session, event);
      } else if (session->sink != nullptr) {
        sinks.push_back(std::exchange(session->sink, nullptr));
      }
    }
  }
  for (const auto& sink : sinks) sink->Close(absl::OkStatus());
}

bool SessionTable::WaitUntilClosed(Micros deadline) {
  MutexLock lock(mutex_);
  const auto is_connected = [](const auto& entry) { return entry.second->sink != nullptr; };
  while (absl::c_any_of(sessions_, is_connected)) {
    if (!unconnected_.WaitUntil(mutex_, FromSteadyMicros(deadline))) {
      return absl::c_none_of(sessions_, is_connected);
    }
  }
  return true;
}

bool SessionTable::WaitUntilIdle(Micros deadline) {
  MutexLock lock(mutex_);
  while (num_requests_ > 0) {
    if (!idle_.WaitUntil(mutex_, FromSteadyMicros(deadline))) return num_requests_ == 0;
  }
  return true;
}

worker::v1::Load SessionTable::load() const {
  MutexLock lock(mutex_);
  return load_;
}

}  // namespace quire
