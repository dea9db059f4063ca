#include "worker/rpc/session_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/rpc_status.h"
#include "worker/rpc/convert.h"

namespace quire {

using worker::v1::SessionEvent;
using worker::v1::SessionRequest;

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
      case SessionRequest::kSubmit: return table_->HandleSubmit(*session_, message.submit());
      case SessionRequest::kCancel: return table_->HandleCancel(*session_, message.cancel());
      case SessionRequest::kReclaim: return table_->HandleReclaim(*session_, message.reclaim());
      case SessionRequest::kPing: return table_->HandlePing(*session_, message.ping());
      case SessionRequest::kOpen:
      case SessionRequest::REQUEST_NOT_SET: return;  // of a newer version
    }
  }
  void OnClosed(const absl::Status&) override {
    if (session_.has_value()) table_->HandleLost(*session_, number_);
  }

 private:
  friend class SessionTable;
  SessionTable* const table_;
  const std::shared_ptr<Sink> sink_;
  std::optional<uint32_t> session_;
  uint64_t number_ = 0;
};

SessionTable::SessionTable(Options options) : options_(std::move(options)), info_(options_.info) {
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
  if (open.coordinator_id().empty() || open.protocol() != 1) {
    connection->sink_->Close(absl::FailedPreconditionError(
        absl::StrCat("Open needs a coordinator_id and protocol 1; it has protocol ", open.protocol())));
    return;
  }
  std::shared_ptr<Sink> replaced;
  {
    MutexLock lock(mutex_);
    const auto [entry, is_new] =
        by_coordinator_.try_emplace(open.coordinator_id(), static_cast<uint32_t>(sessions_.size()));
    if (is_new) {
      sessions_.push_back(std::make_unique<Session>());
      sessions_.back()->coordinator_id = open.coordinator_id();
    }
    Session& session = *sessions_[entry->second];
    replaced = std::exchange(session.sink, connection->sink_);
    session.connection = connection->number_ = next_connection_++;
    connection->session_ = entry->second;
    // What is still alive belongs to no connection until it is reclaimed.
    const Micros now = options_.clock();
    for (auto& [key, request] : session.requests) {
      if (!request->orphaned_at.has_value()) request->orphaned_at = now;
    }
    SessionEvent event;
    event.mutable_opened()->set_incarnation(options_.incarnation);
    *event.mutable_opened()->mutable_worker() = info_;
    Send(session, std::move(event));
    SessionEvent load;
    *load.mutable_load() = load_;
    Send(session, std::move(load));
  }
  if (replaced != nullptr) replaced->Close(absl::AbortedError("superseded by a newer connection"));
}

void SessionTable::HandleSubmit(uint32_t number, const worker::v1::Submit& submit) {
  const Micros now = options_.clock();
  absl::StatusOr<EngineRequest> converted = ToEngineRequest(submit, number, now);
  MutexLock lock(mutex_);
  Session& session = *sessions_[number];
  if (!converted.ok()) return Reject(session, submit.key(), submit.attempt(), converted.status());
  if (draining_) {
    return Reject(session, submit.key(), submit.attempt(),
                  absl::UnavailableError("the worker is draining"));
  }
  if (const auto found = session.requests.find(submit.key()); found != session.requests.end()) {
    if (found->second->attempt >= submit.attempt()) return;  // sent again
    Drop(number, submit.key());
  }
  // The same request, placed by another coordinator after its own was lost.
  if (const auto found = by_request_id_.find(submit.request_id());
      found != by_request_id_.end() && found->second.session != number &&
      sessions_[found->second.session]->requests.at(found->second.request)->orphaned_at.has_value()) {
    Drop(found->second.session, found->second.request);
  }
  auto request = std::make_unique<Request>();
  request->key = submit.key();
  request->attempt = submit.attempt();
  request->request_id = submit.request_id();
  request->arrived_at = now;
  request->has_logprobs = converted->params.logprobs.has_value() ||
                          converted->params.prompt_logprobs.has_value();
  request->choices.resize(converted->n);
  for (uint32_t i = 0; i < converted->n; ++i) {
    Choice& choice = request->choices[i];
    if (i < converted->emitted.size()) choice.first_index = converted->emitted[i].size();
    choice.finished = i < converted->choice_finished.size() && converted->choice_finished[i];
  }
  if (absl::Status status = inbox_->PostSubmit(std::move(*converted)); !status.ok()) {
    return Reject(session, submit.key(), submit.attempt(), status);
  }
  if (!submit.request_id().empty()) {
    by_request_id_[submit.request_id()] = {number, submit.key()};
  }
  session.requests[submit.key()] = std::move(request);
  ++num_requests_;
}

void SessionTable::HandleCancel(uint32_t number, const worker::v1::Cancel& cancel) {
  MutexLock lock(mutex_);
  const auto found = sessions_[number]->requests.find(cancel.key());
  if (found == sessions_[number]->requests.end() || found->second->cancelled) return;
  std::optional<uint32_t> choice;
  std::optional<uint32_t> stop_index;
  if (cancel.has_choice()) {
    choice = cancel.choice();
    if (*choice >= found->second->choices.size() || found->second->choices[*choice].finished) return;
    if (cancel.has_stop_index()) stop_index = cancel.stop_index();
  } else {
    found->second->cancelled = true;
  }
  inbox_->PostCancel({number, cancel.key()}, choice, stop_index);
}

void SessionTable::HandleReclaim(uint32_t number, const worker::v1::Reclaim& reclaim) {
  MutexLock lock(mutex_);
  Session& session = *sessions_[number];
  const auto found = session.requests.find(reclaim.key());
  if (found == session.requests.end() || found->second->attempt != reclaim.attempt()) {
    return Reject(session, reclaim.key(), reclaim.attempt(),
                  absl::NotFoundError("no such request is alive here"));
  }
  Request& request = *found->second;
  if (request.has_logprobs) {
    Reject(session, reclaim.key(), reclaim.attempt(),
           absl::FailedPreconditionError("log-probabilities cannot be replayed: submit it again"));
    return Drop(number, reclaim.key());
  }
  request.orphaned_at.reset();
  worker::v1::StepOutput& output = Pending(number);
  for (uint32_t i = 0; i < request.choices.size(); ++i) {
    const Choice& choice = request.choices[i];
    const uint32_t next = static_cast<int>(i) < reclaim.next_index_size() ? reclaim.next_index(i) : 0;
    const uint32_t end = choice.first_index + choice.tokens.size();
    if (next >= choice.first_index && next < end) {
      output.add_key(request.key);
      output.add_attempt(request.attempt);
      output.add_choice(i);
      output.add_first_index(next);
      output.add_num_tokens(end - next);
      for (uint32_t index = next; index < end; ++index) {
        output.add_token_ids(choice.tokens[index - choice.first_index]);
      }
    }
    if (choice.finished && choice.finish.key() == request.key) *output.add_finishes() = choice.finish;
  }
  pending_sessions_.clear();
  session.has_pending = false;
  Send(session, std::exchange(session.pending, {}));
  EraseIfDone(number, &request);
}

void SessionTable::HandlePing(uint32_t number, const worker::v1::Ping& ping) {
  SessionEvent event;
  event.mutable_pong()->set_nonce(ping.nonce());
  event.mutable_pong()->set_last_step(inbox_->steps());
  event.mutable_pong()->set_since_progress_ms(inbox_->SinceProgress() / 1000);
  MutexLock lock(mutex_);
  Send(*sessions_[number], std::move(event));
}

void SessionTable::HandleLost(uint32_t number, uint64_t connection) {
  MutexLock lock(mutex_);
  Session& session = *sessions_[number];
  if (session.connection != connection) return;
  session.sink.reset();
  const Micros now = options_.clock();
  for (auto& [key, request] : session.requests) request->orphaned_at = now;
}

void SessionTable::Send(Session& session, SessionEvent event) {
  if (session.sink != nullptr) session.sink->Write(std::move(event));
}

void SessionTable::Reject(Session& session, uint64_t key, uint32_t attempt,
                          const absl::Status& status) {
  SessionEvent event;
  worker::v1::Rejected& rejected = *event.mutable_rejected();
  rejected.set_key(key);
  rejected.set_attempt(attempt);
  rejected.set_status_code(static_cast<int>(status.code()));
  rejected.set_status_message(std::string(status.message()));
  if (absl::IsResourceExhausted(status)) rejected.set_retry_after_ms(500);
  Send(session, std::move(event));
}

SessionTable::Request* SessionTable::Find(RequestKey key, uint32_t attempt) {
  Session& session = *sessions_[key.session];
  const auto found = session.requests.find(key.request);
  if (found == session.requests.end() || found->second->attempt != attempt) return nullptr;
  return found->second.get();
}

worker::v1::StepOutput& SessionTable::Pending(uint32_t number) {
  Session& session = *sessions_[number];
  if (!session.has_pending) {
    session.has_pending = true;
    session.pending.Clear();
    pending_sessions_.push_back(number);
  }
  return *session.pending.mutable_step_output();
}

void SessionTable::OnOutput(EngineOutput& output) {
  MutexLock lock(mutex_);
  const Micros now = options_.clock();
  for (const EngineOutput::Entry& entry : output.entries) {
    Request* request = Find(entry.key, entry.attempt);
    if (request == nullptr) continue;
    if (request->first_token_at < 0) request->first_token_at = now;
    Choice& choice = request->choices[entry.choice];
    const auto first = output.tokens.begin() + entry.first_token;
    choice.tokens.insert(choice.tokens.end(), first, first + entry.num_tokens);
    if (request->orphaned_at.has_value()) continue;
    worker::v1::StepOutput& message = Pending(entry.key.session);
    message.add_key(entry.key.request);
    message.add_attempt(entry.attempt);
    message.add_choice(entry.choice);
    message.add_first_index(entry.first_index);
    message.add_num_tokens(entry.num_tokens);
    for (uint32_t i = 0; i < entry.num_tokens; ++i) message.add_token_ids(first[i]);
  }
  for (const EngineOutput::Logprobs& logprobs : output.logprobs) {
    Request* request = Find(logprobs.key, logprobs.attempt);
    if (request == nullptr || request->orphaned_at.has_value()) continue;
    worker::v1::EntryLogprobs& entry = *Pending(logprobs.key.session).add_logprobs();
    entry.set_key(logprobs.key.request);
    entry.set_choice(logprobs.choice);
    entry.set_first_index(logprobs.first_index);
    for (const TokenLogprobs& token : logprobs.output) *entry.add_output() = ToProto(token);
    for (const TokenLogprobs& token : logprobs.prompt) *entry.add_prompt() = ToProto(token);
  }
  for (const EngineOutput::Notice& notice : output.notices) {
    Request* request = Find(notice.key, notice.attempt);
    if (request == nullptr || request->orphaned_at.has_value()) continue;
    worker::v1::EntryNotice& entry = *Pending(notice.key.session).add_notices();
    entry.set_key(notice.key.request);
    entry.mutable_notice()->set_kind(notice.kind == NoticeKind::kPreempted ? v1::Notice::PREEMPTED
                                                                           : v1::Notice::RECOMPUTED);
    entry.mutable_notice()->set_why(notice.why);
  }
  for (const ChoiceFinish& finish : output.finishes) {
    Request* request = Find(finish.key, finish.attempt);
    if (request == nullptr) continue;
    Choice& choice = request->choices[finish.choice];
    choice.finished = true;
    choice.finish = ToProto(finish);
    if (!request->orphaned_at.has_value()) {
      *Pending(finish.key.session).add_finishes() = choice.finish;
    }
  }
  for (const uint32_t number : pending_sessions_) {
    Session& session = *sessions_[number];
    worker::v1::StepOutput& message = *session.pending.mutable_step_output();
    message.set_step(output.step);
    // Arrays that say nothing are left out.
    const auto is_zero = [](uint32_t value) { return value == 0; };
    const auto is_one = [](uint32_t value) { return value == 1; };
    if (std::all_of(message.choice().begin(), message.choice().end(), is_zero)) message.clear_choice();
    if (std::all_of(message.num_tokens().begin(), message.num_tokens().end(), is_one)) {
      message.clear_num_tokens();
    }
    session.has_pending = false;
    Send(session, std::exchange(session.pending, {}));
  }
  pending_sessions_.clear();
  for (const ChoiceFinish& finish : output.finishes) {
    Request* request = Find(finish.key, finish.attempt);
    if (request != nullptr) EraseIfDone(finish.key.session, request);
  }
}

void SessionTable::EraseIfDone(uint32_t number, Request* request) {
  // An orphan's end waits for the coordinator that may reclaim it.
  if (request->orphaned_at.has_value()) return;
  const bool done = std::all_of(request->choices.begin(), request->choices.end(),
                                [](const Choice& choice) { return choice.finished; });
  if (!done) return;
  Session& session = *sessions_[number];
  Report(session, *request);
  if (const auto found = by_request_id_.find(request->request_id);
      found != by_request_id_.end() && found->second == RequestKey{number, request->key}) {
    by_request_id_.erase(found);
  }
  session.requests.erase(request->key);
  if (--num_requests_ == 0) idle_.NotifyAll();
}

void SessionTable::Drop(uint32_t number, uint64_t key) {
  Session& session = *sessions_[number];
  Request* request = session.requests.at(key).get();
  inbox_->PostCancel({number, key}, std::nullopt, std::nullopt);
  request->orphaned_at.reset();
  for (Choice& choice : request->choices) {
    if (choice.finished) continue;
    choice.finished = true;
    choice.finish.set_status_code(static_cast<int>(absl::StatusCode::kCancelled));
    choice.finish.set_status_message("its coordinator is gone");
    choice.finish.mutable_usage()->set_output_tokens(choice.first_index + choice.tokens.size());
  }
  EraseIfDone(number, request);
}

void SessionTable::Report(const Session& session, const Request& request) {
  if (!options_.on_request_end) return;
  RequestRecord record;
  record.request_id = request.request_id;
  record.coordinator_id = session.coordinator_id;
  record.choices = static_cast<uint32_t>(request.choices.size());
  for (const Choice& choice : request.choices) {
    if (record.status.ok() && choice.finish.status_code() != 0) {
      record.status = absl::Status(static_cast<absl::StatusCode>(choice.finish.status_code()),
                                   choice.finish.status_message());
    }
    record.prompt_tokens = std::max(record.prompt_tokens, choice.finish.usage().prompt_tokens());
    record.cached_tokens += choice.finish.usage().cached_tokens();
    record.output_tokens += choice.finish.usage().output_tokens();
    record.queued = std::max(record.queued,
                             static_cast<Micros>(choice.finish.timings().queued_ms() * 1000));
  }
  if (request.first_token_at >= 0) record.first_token = request.first_token_at - request.arrived_at;
  record.total = options_.clock() - request.arrived_at;
  options_.on_request_end(record);
}

void SessionTable::OnRejected(RequestKey key, uint32_t attempt, const absl::Status& status) {
  MutexLock lock(mutex_);
  Request* request = Find(key, attempt);
  if (request == nullptr) return;
  Session& session = *sessions_[key.session];
  Reject(session, key.request, attempt, status);
  for (Choice& choice : request->choices) {
    choice.finished = true;
    choice.finish.set_status_code(static_cast<int>(status.code()));
    choice.finish.set_status_message(std::string(status.message()));
  }
  request->orphaned_at.reset();
  EraseIfDone(key.session, request);
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
  for (const auto& session : sessions_) {
    SessionEvent event;
    *event.mutable_load() = load_;
    Send(*session, std::move(event));
  }
  if (options_.on_load) options_.on_load(load_);
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
  for (uint32_t number = 0; number < sessions_.size(); ++number) {
    std::vector<uint64_t> expired;
    for (const auto& [key, request] : sessions_[number]->requests) {
      if (request->orphaned_at.has_value() && now - *request->orphaned_at >= options_.orphan_grace) {
        expired.push_back(key);
      }
    }
    for (const uint64_t key : expired) Drop(number, key);
  }
}

void SessionTable::StartDraining() {
  MutexLock lock(mutex_);
  draining_ = true;
  load_.set_draining(true);
  for (const auto& session : sessions_) {
    SessionEvent event;
    *event.mutable_load() = load_;
    Send(*session, std::move(event));
  }
}

void SessionTable::EndAll() {
  MutexLock lock(mutex_);
  for (uint32_t number = 0; number < sessions_.size(); ++number) {
    Session& session = *sessions_[number];
    std::vector<uint64_t> keys;
    for (const auto& [key, request] : session.requests) keys.push_back(key);
    for (const uint64_t key : keys) {
      const Request& request = *session.requests.at(key);
      SessionEvent event;
      for (uint32_t i = 0; i < request.choices.size(); ++i) {
        if (request.choices[i].finished) continue;
        worker::v1::Finish& finish = *event.mutable_step_output()->add_finishes();
        finish.set_key(key);
        finish.set_attempt(request.attempt);
        finish.set_choice(i);
        finish.set_reason(v1::Finished::ABORTED);
        finish.set_status_code(static_cast<int>(absl::StatusCode::kUnavailable));
        finish.set_status_message("the worker shut down");
        finish.mutable_usage()->set_output_tokens(request.choices[i].first_index +
                                                  request.choices[i].tokens.size());
      }
      Send(session, std::move(event));
      Drop(number, key);
    }
  }
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
