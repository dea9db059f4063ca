#include "coordinator/stream/request_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/rpc_status.h"

namespace quire {
namespace {

// A notice says that timing changed, so those beyond this many say nothing new.
constexpr size_t kMaxNotices = 64;
// Tokens of one Delta. Keeps messages with 20 alternatives a token well below the limit.
constexpr uint32_t kMaxTokensPerDelta = 4096;

}  // namespace

RequestStream::RequestStream(uint64_t key, std::string request_id, std::string fingerprint,
                             const Context& context)
    : key_(key),
      request_id_(std::move(request_id)),
      fingerprint_(std::move(fingerprint)),
      context_(context),
      received_at_(SteadyMicros()) {}

void RequestStream::Carry(const Effects& effects) {
  if (effects.cancel_timer != 0) context_.timers->Cancel(effects.cancel_timer);
  if (effects.link != nullptr) {
    for (const worker::v1::Cancel& cancel : effects.cancels) effects.link->Cancel(cancel);
  }
  if (effects.ended.has_value()) context_.on_end(*this, *effects.ended);
  if (effects.kick != nullptr) effects.kick->Kick();
}

// --- The client
// -----------------------------------------------------------------------------------------

void RequestStream::Attach(std::shared_ptr<ClientSink> client, std::optional<int64_t> deadline,
                           const std::string& deadline_name) {
  std::shared_ptr<ClientSink> superseded;
  TimerQueue::Id old_timer;
  {
    MutexLock lock(mutex_);
    superseded = std::exchange(client_, std::move(client));
    old_timer = std::exchange(deadline_timer_, 0);
    ++num_clients_;
    if (deadline.has_value() && !ended_.has_value()) {
      deadline_timer_ = context_.timers->Schedule(
          *deadline, [stream = weak_from_this(), deadline_name, client_number = num_clients_] {
            if (const auto locked = stream.lock()) locked->OnDeadline(client_number, deadline_name);
          });
    }
  }
  if (old_timer != 0) context_.timers->Cancel(old_timer);
  if (superseded != nullptr) {
    superseded->Abort(absl::AbortedError("superseded: another call took this request over"));
  }
}

void RequestStream::OnDeadline(uint64_t client_number, const std::string& name) {
  Effects effects;
  {
    MutexLock lock(mutex_);
    if (client_number != num_clients_) return;  // another client came while the timer ran out
    size_t num_tokens = 0;
    for (const ChoiceOutput& choice : choices_) num_tokens += choice.num_tokens();
    EndLocked(absl::DeadlineExceededError(
                  absl::StrCat(name, " passed: ", first_token_at_ < 0 ? "queued" : "running", ", ",
                               num_tokens, " tokens out")),
              &effects);
  }
  Carry(effects);
}

void RequestStream::ClientGone(const ClientSink* client) {
  Effects effects;
  {
    MutexLock lock(mutex_);
    if (client_.get() != client) return;
    client_.reset();
    EndLocked(absl::CancelledError("the client went away"), &effects);
  }
  Carry(effects);
}

bool RequestStream::IsBehind(const Cursor& cursor) const {
  if (ended_.has_value()) return false;
  for (size_t i = 0; i < cursor.resume.size() && i < choices_.size(); ++i) {
    if (cursor.resume[i].size() > choices_[i].num_tokens() && !choices_[i].finished.has_value()) {
      return true;
    }
  }
  return false;
}

absl::Status RequestStream::CheckResume(Cursor* cursor) {
  cursor->resume_checked = true;
  cursor->next_index.assign(choices_.size(), 0);
  cursor->finish_sent.assign(choices_.size(), false);
  for (size_t i = 0; i < cursor->resume.size() && i < choices_.size(); ++i) {
    const std::vector<uint32_t>& theirs = cursor->resume[i];
    const std::vector<uint32_t>& ours = choices_[i].ids();
    const size_t common = std::min(theirs.size(), ours.size());
    const auto difference =
        std::mismatch(theirs.begin(), theirs.begin() + common, ours.begin()).first - theirs.begin();
    if (static_cast<size_t>(difference) < common) {
      return WithField(
          absl::InvalidArgumentError(absl::StrCat(
              "resume.choices[", i, "].emitted_token_ids[", difference, "] is ", theirs[difference],
              "; the request emitted ", ours[difference], " there")),
          absl::StrCat("resume.choices[", i, "].emitted_token_ids"));
    }
    if (theirs.size() > ours.size()) {
      return WithField(absl::InvalidArgumentError(absl::StrCat(
                           "resume.choices[", i, "].emitted_token_ids has ", theirs.size(),
                           " tokens; the request ended after ", ours.size())),
                       absl::StrCat("resume.choices[", i, "].emitted_token_ids"));
    }
    cursor->next_index[i] = static_cast<uint32_t>(theirs.size());
  }
  cursor->resume.clear();
  return absl::OkStatus();
}

RequestStream::Taken RequestStream::Take(Cursor* cursor, v1::GenerateEvent* event,
                                         absl::Status* status) {
  MutexLock lock(mutex_);
  event->Clear();
  if (!accepted_.has_value()) {
    if (!ended_.has_value()) return Taken::kNothing;
    *status = *ended_;
    return Taken::kEnd;
  }
  if (!cursor->resume_checked) {
    if (IsBehind(*cursor)) return Taken::kNothing;
    if (*status = CheckResume(cursor); !status->ok()) return Taken::kEnd;
  }
  if (!cursor->accepted_sent) {
    cursor->accepted_sent = true;
    *event->mutable_accepted() = *accepted_;
    return Taken::kEvent;
  }
  if (cursor->notices_sent < notices_.size()) {
    *event->mutable_notice() = notices_[cursor->notices_sent++];
    return Taken::kEvent;
  }
  if (TakePromptLogprobs(cursor, event) || TakeDelta(cursor, event) || TakeFinish(cursor, event)) {
    return Taken::kEvent;
  }
  if (!ended_.has_value()) return Taken::kNothing;
  *status = *ended_;
  return Taken::kEnd;
}

bool RequestStream::TakePromptLogprobs(Cursor* cursor, v1::GenerateEvent* event) {
  // A client that has tokens of choice 0 had these before them.
  if (choices_.empty() || cursor->next_index[0] > 0) return false;
  const ChoiceOutput& choice = choices_[0];
  size_t& next = cursor->prompt_logprobs_sent;
  if (next >= choice.num_prompt_logprobs()) return false;
  const size_t end = std::min<size_t>(choice.num_prompt_logprobs(), next + kMaxTokensPerDelta);
  choice.CopyPromptLogprobs(next, end, event->mutable_delta());
  next = end;
  return true;
}

bool RequestStream::TakeDelta(Cursor* cursor, v1::GenerateEvent* event) {
  for (uint32_t i = 0; i < choices_.size(); ++i) {
    const uint32_t number = (cursor->last_choice + 1 + i) % choices_.size();
    const ChoiceOutput& choice = choices_[number];
    uint32_t& next = cursor->next_index[number];
    if (next >= choice.num_sendable()) continue;
    const uint32_t end = std::min(choice.num_sendable(), next + kMaxTokensPerDelta);
    v1::Delta& delta = *event->mutable_delta();
    delta.set_choice(number);
    choice.CopyTo(next, end, &delta);
    next = end;
    cursor->last_choice = number;
    return true;
  }
  return false;
}

bool RequestStream::TakeFinish(Cursor* cursor, v1::GenerateEvent* event) {
  for (uint32_t i = 0; i < choices_.size(); ++i) {
    if (!choices_[i].finished.has_value() || cursor->finish_sent[i]) continue;
    cursor->finish_sent[i] = true;
    *event->mutable_finished() = *choices_[i].finished;
    return true;
  }
  return false;
}

// --- The request
// ----------------------------------------------------------------------------------------

absl::Status RequestStream::StartChoices() {
  const v1::ResolvedParameters& parameters = request_.parameters;
  for (uint32_t i = 0; i < parameters.n(); ++i) {
    auto choice = ChoiceOutput::Create(i, request_.model->tokenizer(), request_.prompt, parameters);
    if (!choice.ok()) return choice.status();
    choices_.push_back(*std::move(choice));
    if (i >= request_.emitted.size()) continue;
    const auto stopped = choices_[i].Append(request_.emitted[i]);
    if (!stopped.ok()) return stopped.status();
    choices_[i].SkipLogprobs();
    if (!*stopped) continue;
    // A stop string had ended it already.
    v1::Finished& finished = choices_[i].finished.emplace();
    finished.set_choice(i);
    finished.set_reason(v1::Finished::STOP);
    finished.set_stop_string(choices_[i].matched_stop());
    finished.set_seed(parameters.seed());
    finished.mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(request_.prompt.size()));
    finished.mutable_usage()->set_output_tokens(choices_[i].num_tokens());
  }
  return absl::OkStatus();
}

void RequestStream::Begin(PreparedRequest request) {
  absl::Status started;
  {
    MutexLock lock(mutex_);
    if (ended_.has_value()) return;
    request_ = std::move(request);
    begun_ = true;
    started = StartChoices();
  }
  if (!started.ok()) return End(started);
  PlaceAndSubmit();
}

worker::v1::Submit RequestStream::MakeSubmit() const {
  worker::v1::Submit submit;
  submit.set_key(key_);
  submit.set_attempt(attempt_);
  submit.set_request_id(request_id_);
  submit.mutable_prompt_token_ids()->Add(request_.prompt.begin(), request_.prompt.end());
  *submit.mutable_parameters() = request_.parameters;
  submit.set_cache_salt(request_.cache_salt);
  submit.set_tenant(request_.tenant);
  for (const ChoiceOutput& choice : choices_) {
    submit.add_emitted()->mutable_emitted_token_ids()->Add(choice.ids().begin(),
                                                           choice.ids().end());
    submit.add_choice_finished(choice.finished.has_value());
  }
  if (request_.queue_timeout_ms > 0) {
    const int64_t spent_ms = (SteadyMicros() - received_at_) / 1000;
    submit.set_queue_timeout_ms(
        static_cast<uint32_t>(std::max<int64_t>(1, int64_t{request_.queue_timeout_ms} - spent_ms)));
  }
  return submit;
}

void RequestStream::Accept(const WorkerView& view) {
  worker_name_ = view.info.name();
  if (accepted_.has_value()) {
    if (notices_.size() < kMaxNotices) {
      v1::Notice& notice = notices_.emplace_back();
      notice.set_kind(v1::Notice::MIGRATED);
      notice.set_why(absl::StrCat("the worker had no room; the request runs on ", worker_name_));
    }
    return;
  }
  v1::Accepted& accepted = accepted_.emplace();
  accepted.set_request_id(request_id_);
  *accepted.mutable_parameters() = request_.parameters;
  accepted.set_prompt_token_count(static_cast<uint32_t>(request_.prompt.size()));
  accepted.set_worker(worker_name_);
  accepted.set_numerics_id(view.info.numerics_id());
}

void RequestStream::PlaceAndSubmit() {
  for (;;) {
    Placement placement;
    {
      MutexLock lock(mutex_);
      if (ended_.has_value()) return;
      placement.model = request_.model->name();
      placement.engine = request_.engine;
      placement.worker = request_.worker;
      placement.cache_salt = request_.cache_salt;
      placement.prompt = &request_.prompt;  // not changed after Begin
      placement.max_new_tokens = request_.parameters.max_new_tokens();
      placement.num_choices = request_.parameters.n();
      placement.refused = refused_;
    }
    auto placed = context_.placer->Place(placement);
    if (!placed.ok()) return End(placed.status());
    const std::shared_ptr<WorkerLink> link = *placed;

    worker::v1::Submit submit;
    bool complete = false;
    {
      MutexLock lock(mutex_);
      if (ended_.has_value()) return;
      ++attempt_;
      link_ = link;
      Accept(link->View());
      submit = MakeSubmit();
      complete = std::all_of(choices_.begin(), choices_.end(), [](const ChoiceOutput& choice) {
        return choice.finished.has_value();
      });
    }
    if (complete) return End(absl::OkStatus());  // what was emitted had ended every choice
    if (!link->Submit(std::move(submit), shared_from_this())) {
      MutexLock lock(mutex_);
      refused_.insert(link->number());
      continue;
    }
    // Whoever ended or cancelled it meanwhile could not reach the worker.
    Effects effects;
    {
      MutexLock lock(mutex_);
      if (ended_.has_value() || cancelling_) CancelAtWorker(std::nullopt, &effects);
      effects.kick = client_;
    }
    return Carry(effects);
  }
}

void RequestStream::CancelAtWorker(std::optional<uint32_t> choice, Effects* effects) {
  effects->link = link_;
  worker::v1::Cancel& cancel = effects->cancels.emplace_back();
  cancel.set_key(key_);
  if (!choice.has_value()) return;
  cancel.set_choice(*choice);
  cancel.set_stop_index(choices_[*choice].num_tokens());
}

RequestRecord RequestStream::MakeRecord(const absl::Status& status) const {
  RequestRecord record;
  record.request_id = request_id_;
  record.model = request_.model == nullptr ? "" : request_.model->name();
  record.worker = worker_name_;
  record.tenant = request_.tenant;
  record.status = status;
  record.choices = static_cast<uint32_t>(choices_.size());
  record.prompt_tokens = static_cast<uint32_t>(request_.prompt.size());
  for (const ChoiceOutput& choice : choices_) {
    record.output_tokens += choice.num_tokens();
    if (choice.finished.has_value())
      record.cached_tokens += choice.finished->usage().cached_tokens();
  }
  if (first_token_at_ >= 0) record.first_token = first_token_at_ - received_at_;
  record.total = SteadyMicros() - received_at_;
  return record;
}

void RequestStream::AbortChoice(uint32_t choice) {
  v1::Finished& finished = choices_[choice].finished.emplace();
  finished.set_choice(choice);
  finished.set_reason(v1::Finished::ABORTED);
  finished.set_seed(request_.parameters.seed());
  finished.mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(request_.prompt.size()));
  finished.mutable_usage()->set_output_tokens(choices_[choice].num_tokens());
  if (first_token_at_ >= 0) {
    finished.mutable_timings()->set_first_token_ms((first_token_at_ - received_at_) / 1e3);
  }
}

void RequestStream::EndLocked(const absl::Status& status, Effects* effects) {
  if (ended_.has_value()) return;
  bool is_running = false;
  for (uint32_t i = 0; i < choices_.size(); ++i) {
    if (choices_[i].finished.has_value()) continue;
    AbortChoice(i);
    is_running = true;
  }
  if (is_running && link_ != nullptr) CancelAtWorker(std::nullopt, effects);
  ended_ = status;
  effects->ended = MakeRecord(status);
  request_.model.reset();  // a stream that is kept for retries does not keep the model
  effects->kick = client_;
  effects->cancel_timer = std::exchange(deadline_timer_, 0);
}

void RequestStream::EndIfComplete(Effects* effects) {
  for (const ChoiceOutput& choice : choices_) {
    if (!choice.finished.has_value()) return;
  }
  EndLocked(error_, effects);
}

void RequestStream::End(const absl::Status& status) {
  Effects effects;
  {
    MutexLock lock(mutex_);
    EndLocked(status, &effects);
  }
  Carry(effects);
}

void RequestStream::Cancel() {
  Effects effects;
  {
    MutexLock lock(mutex_);
    if (ended_.has_value() || cancelling_) return;
    const absl::Status status = absl::CancelledError("cancelled by a Cancel call");
    if (link_ == nullptr) {
      EndLocked(status, &effects);
    } else {
      cancelling_ = true;
      error_ = status;
      CancelAtWorker(std::nullopt, &effects);
    }
  }
  Carry(effects);
}

size_t RequestStream::num_bytes() const {
  MutexLock lock(mutex_);
  size_t bytes = sizeof(RequestStream) + 4 * request_.prompt.size() +
                 2 * request_.parameters.SpaceUsedLong();  // accepted_ has them too
  for (const ChoiceOutput& choice : choices_) bytes += sizeof(ChoiceOutput) + choice.num_bytes();
  return bytes;
}

// --- What the worker says
// -------------------------------------------------------------------------------

void RequestStream::OnTokens(uint32_t attempt, uint32_t number, uint32_t first_index,
                             absl::Span<const uint32_t> ids) {
  Effects effects;
  const int64_t now = SteadyMicros();
  int64_t first_token = -1;
  int64_t gap = -1;
  {
    MutexLock lock(mutex_);
    if (ended_.has_value() || attempt != attempt_ || number >= choices_.size()) return;
    ChoiceOutput& choice = choices_[number];
    if (choice.finished.has_value() || choice.stopped()) return;
    if (first_index > choice.num_tokens()) {
      EndLocked(absl::InternalError(absl::StrCat("worker ", worker_name_, " skipped from token ",
                                                 choice.num_tokens(), " to ", first_index)),
                &effects);
    } else if (const uint32_t known = choice.num_tokens() - first_index; known < ids.size()) {
      if (first_token_at_ < 0) {
        first_token_at_ = now;
        first_token = now - received_at_;
      }
      if (choice.last_token_at >= 0) gap = now - choice.last_token_at;
      choice.last_token_at = now;
      const auto stopped = choice.Append(ids.subspan(known));
      if (!stopped.ok()) {
        EndLocked(absl::InternalError(
                      absl::StrCat("cannot decode the output: ", stopped.status().message())),
                  &effects);
      } else if (*stopped) {
        CancelAtWorker(number, &effects);
      }
    }
  }
  if (first_token >= 0 && context_.on_first_token) context_.on_first_token(first_token);
  if (gap >= 0 && context_.on_token_gap) {
    context_.on_token_gap(gap, static_cast<uint32_t>(ids.size()));
  }
  Carry(effects);
}

void RequestStream::OnLogprobs(const worker::v1::EntryLogprobs& logprobs) {
  MutexLock lock(mutex_);
  if (ended_.has_value() || logprobs.choice() >= choices_.size()) return;
  ChoiceOutput& choice = choices_[logprobs.choice()];
  choice.AddLogprobs(logprobs.first_index(), logprobs.output());
  choice.AddPromptLogprobs(logprobs.first_prompt_position(), logprobs.prompt());
}

void RequestStream::OnNotice(const v1::Notice& notice) {
  MutexLock lock(mutex_);
  if (!ended_.has_value() && notices_.size() < kMaxNotices) notices_.push_back(notice);
}

void RequestStream::OnFinish(const worker::v1::Finish& finish) {
  Effects effects;
  {
    MutexLock lock(mutex_);
    if (ended_.has_value() || finish.attempt() != attempt_ || finish.choice() >= choices_.size())
      return;
    ChoiceOutput& choice = choices_[finish.choice()];
    if (choice.finished.has_value()) return;
    const auto flushed = choice.Flush();
    v1::Finished& finished = choice.finished.emplace();
    finished.set_choice(finish.choice());
    finished.set_reason(finish.reason());
    *finished.mutable_usage() = finish.usage();
    *finished.mutable_timings() = finish.timings();
    finished.set_seed(request_.parameters.seed());
    if (choice.stopped()) {
      finished.set_reason(v1::Finished::STOP);
      finished.set_stop_string(choice.matched_stop());
      finished.mutable_usage()->set_output_tokens(choice.num_tokens());
    } else if (finish.has_stop_token_id()) {
      finished.set_stop_token_id(finish.stop_token_id());
    }
    finished.set_text(choice.tail());
    if (first_token_at_ >= 0) {
      finished.mutable_timings()->set_first_token_ms((first_token_at_ - received_at_) / 1e3);
    }
    absl::Status problem = flushed.ok() ? absl::OkStatus() : flushed.status();
    if (!choice.stopped() && finish.status_code() != 0) {
      problem = absl::Status(static_cast<absl::StatusCode>(finish.status_code()),
                             finish.status_message());
      if (absl::IsUnavailable(problem)) problem = WithRetryDelay(problem, kRetryDelayMs);
    }
    if (!problem.ok() && error_.ok()) {
      // One choice that fails takes the request with it.
      error_ = problem;
      CancelAtWorker(std::nullopt, &effects);
    }
    EndIfComplete(&effects);
  }
  Carry(effects);
}

void RequestStream::OnRejected(uint32_t attempt, const absl::Status& status) {
  {
    MutexLock lock(mutex_);
    if (ended_.has_value() || attempt != attempt_) return;
    if (link_ != nullptr) refused_.insert(link_->number());
    link_ = nullptr;
  }
  // Its queue had filled up, or it began to drain: another worker may have room.
  if (absl::IsResourceExhausted(status) || absl::IsUnavailable(status)) return PlaceAndSubmit();
  End(status);
}

void RequestStream::OnWorkerLost(uint32_t attempt, const absl::Status& status) {
  Effects effects;
  {
    MutexLock lock(mutex_);
    if (ended_.has_value() || attempt != attempt_) return;
    link_ = nullptr;
    EndLocked(WithRetryDelay(status, kRetryDelayMs), &effects);
  }
  Carry(effects);
}

void RequestStream::OnMessageEnd() {
  std::shared_ptr<ClientSink> client;
  {
    MutexLock lock(mutex_);
    client = client_;
  }
  if (client != nullptr) client->Kick();
}

}  // namespace quire
