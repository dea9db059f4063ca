#include "coordinator/stream/request_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/printable.h"
#include "common/rpc_status.h"

namespace quire {

RequestStream::RequestStream(uint64_t key, std::string request_id, std::string fingerprint,
                             const Context& context, std::optional<int64_t> received_at)
    : key_(key),
      request_id_(std::move(request_id)),
      fingerprint_(std::move(fingerprint)),
      context_(context),
      received_at_(received_at.value_or(context_.timers->Now())) {}

void RequestStream::Carry(const Effects& effects) {
  for (const Timers::Id timer : effects.cancel_timers) {
    if (timer != 0) context_.timers->Cancel(timer);
  }
  if (effects.link != nullptr) {
    for (const worker::v1::Cancel& cancel : effects.cancels) effects.link->Cancel(cancel);
  }
  if (effects.releases_worker) context_.placer->Release(key_);
  if (effects.is_quarantined && context_.on_quarantined) context_.on_quarantined(*this);
  if (effects.ended.has_value()) context_.on_end(*this, *effects.ended);
  for (const auto& [client, status] : effects.aborts) client->Abort(status);
  if (effects.kick != nullptr) effects.kick->Kick();
}

// --- The client ---

bool RequestStream::Attach(std::shared_ptr<ClientSink> sink, ResumeTokens resume,
                           std::optional<int64_t> deadline, const std::string& deadline_name) {
  Effects effects;
  {
    MutexLock lock(mutex_);
    if (num_clients_ > 0 && output_.ended.has_value() && !output_.ended->ok()) return false;
    Client client;
    client.sink = std::move(sink);
    client.resume = std::move(resume);
    client.number = ++num_clients_;
    if (deadline.has_value() && !output_.ended.has_value()) {
      client.deadline_timer = context_.timers->Schedule(
          *deadline, [stream = weak_from_this(), deadline_name, number = client.number] {
            if (const auto locked = stream.lock()) locked->OnDeadline(number, deadline_name);
          });
    }
    waiting_.push_back(std::move(client));
    AdmitWaiting(&effects);
  }
  Carry(effects);
  return true;
}

void RequestStream::AdmitWaiting(Effects* effects) {
  std::vector<Client> waiting = std::exchange(waiting_, {});
  for (Client& client : waiting) {
    if (client_.sink != nullptr) {
      if (output_.IsBehind(client.resume)) {
        waiting_.push_back(std::move(client));
        continue;
      }
      if (absl::Status status = output_.CheckResume(client.resume); !status.ok()) {
        effects->aborts.emplace_back(client.sink, std::move(status));
        effects->cancel_timers.push_back(client.deadline_timer);
        continue;
      }
      effects->aborts.emplace_back(
          client_.sink, absl::AbortedError("superseded: another call took this request over"));
      effects->cancel_timers.push_back(client_.deadline_timer);
    }
    client_ = std::move(client);
    client_.resume.clear();
    effects->kick = client_.sink;
  }
}

void RequestStream::OnDeadline(uint64_t client_number, const std::string& name) {
  Effects effects;
  {
    MutexLock lock(mutex_);
    const char* place = !output_.accepted.has_value() ? "queued"
                        : first_token_at_ < 0 ? "queued or in prefill, before its first token"
                                              : "running";
    const absl::Status status = absl::DeadlineExceededError(absl::StrCat(
        name, " passed: ", place, ", ", output_.num_tokens() - num_resumed_tokens_, " tokens out"));
    const auto waiting = std::find_if(
        waiting_.begin(), waiting_.end(),
        [client_number](const Client& client) { return client.number == client_number; });
    if (client_.number == client_number) {
      EndLocked(status, &effects);
    } else if (waiting != waiting_.end()) {
      effects.aborts.emplace_back(waiting->sink, status);
      waiting_.erase(waiting);
    }
  }
  Carry(effects);
}

void RequestStream::ClientGone(const ClientSink* sink) {
  Effects effects;
  {
    MutexLock lock(mutex_);
    if (client_.sink.get() == sink) {
      effects.cancel_timers.push_back(client_.deadline_timer);
      client_ = Client();
      AdmitWaiting(&effects);
      if (client_.sink == nullptr) {
        EndLocked(absl::CancelledError("the client went away"), &effects);
      }
    } else {
      std::erase_if(waiting_, [&](const Client& client) {
        if (client.sink.get() != sink) return false;
        effects.cancel_timers.push_back(client.deadline_timer);
        return true;
      });
    }
  }
  Carry(effects);
}

RequestStream::Taken RequestStream::Take(Cursor* cursor, v1::GenerateEvent* event,
                                         absl::Status* status) {
  MutexLock lock(mutex_);
  return output_.Take(cursor, event, status);
}

std::vector<int64_t> RequestStream::losses() const {
  MutexLock lock(mutex_);
  return losses_;
}

void RequestStream::TakeLosses(std::vector<int64_t> losses) {
  MutexLock lock(mutex_);
  losses_ = std::move(losses);
}

bool RequestStream::has_ended() const {
  MutexLock lock(mutex_);
  return output_.ended.has_value();
}

bool RequestStream::has_failed() const {
  MutexLock lock(mutex_);
  return output_.ended.has_value() && !output_.ended->ok();
}

// --- The request ---

absl::StatusOr<std::vector<ChoiceOutput>> RequestStream::StartChoices(
    const PreparedRequest& request) {
  const v1::ResolvedParameters& parameters = request.parameters;
  auto choices = ChoiceOutput::CreateAll(request.model->tokenizer(), request.prompt, parameters);
  if (!choices.ok()) return choices.status();
  for (uint32_t i = 0; i < choices->size() && i < request.emitted.size(); ++i) {
    ChoiceOutput& choice = (*choices)[i];
    const auto stopped = choice.Append(request.emitted[i]);
    if (!stopped.ok()) return stopped.status();
    choice.SkipLogprobs();
    if (!*stopped) continue;
    // A stop string had ended it already.
    v1::Finished& finished = choice.finished.emplace();
    finished.set_choice(i);
    finished.set_reason(v1::Finished::STOP);
    finished.set_stop_string(choice.matched_stop());
    finished.set_seed(parameters.seed());
    finished.mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(request.prompt.size()));
    finished.mutable_usage()->set_output_tokens(choice.num_tokens());
  }
  return choices;
}

void RequestStream::Begin(PreparedRequest request) {
  // Decoding the prompt may take a while: without the lock.
  auto choices = StartChoices(request);
  {
    MutexLock lock(mutex_);
    if (output_.ended.has_value()) return;
    request_ = std::move(request);
    request_.emitted.clear();
    if (choices.ok()) output_.choices = *std::move(choices);
    num_resumed_tokens_ = output_.num_tokens();
    NoteTokensAtLoss();
    // Another coordinator had accepted it, whose worker may hold its places yet: it waits for one.
    if (num_resumed_tokens_ > 0 || !request_.numerics_id.empty()) StartMoving("it was resumed");
  }
  if (!choices.ok()) return End(choices.status());
  PlaceAndSubmit();
}

void RequestStream::CancelAtWorker(std::optional<uint32_t> choice, Effects* effects) {
  effects->link = link_;
  worker::v1::Cancel& cancel = effects->cancels.emplace_back();
  cancel.set_key(key_);
  if (!choice.has_value()) return;
  cancel.set_choice(*choice);
  cancel.set_stop_index(output_.choices[*choice].num_tokens());
}

RequestRecord RequestStream::MakeRecord(const absl::Status& status) const {
  RequestRecord record;
  record.request_id = request_id_;
  record.model = request_.model == nullptr ? "" : request_.model->name();
  record.worker = worker_name_;
  record.tenant = request_.tenant;
  record.status = status;
  record.choices = static_cast<uint32_t>(output_.choices.size());
  record.prompt_tokens = static_cast<uint32_t>(request_.prompt.size());
  for (const ChoiceOutput& choice : output_.choices) {
    record.output_tokens += choice.num_tokens();
    if (choice.finished.has_value())
      record.cached_tokens += choice.finished->usage().cached_tokens();
  }
  if (first_token_at_ >= 0) record.first_token = first_token_at_ - received_at_;
  record.total = context_.timers->Now() - received_at_;
  return record;
}

v1::Finished& RequestStream::FinishChoice(uint32_t number, v1::Finished::Reason reason) {
  ChoiceOutput& choice = output_.choices[number];
  v1::Finished& finished = choice.finished.emplace();
  finished.set_choice(number);
  finished.set_reason(choice.stopped() ? v1::Finished::STOP : reason);
  if (choice.stopped()) finished.set_stop_string(choice.matched_stop());
  finished.set_text(choice.tail());
  finished.set_seed(request_.parameters.seed());
  return finished;
}

void RequestStream::AbortChoice(uint32_t number) {
  ChoiceOutput& choice = output_.choices[number];
  // Without its last text if that fails: the request has failed anyway.
  choice.Flush(/*aborted=*/true).IgnoreError();
  v1::Finished& finished = FinishChoice(number, v1::Finished::ABORTED);
  finished.mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(request_.prompt.size()));
  finished.mutable_usage()->set_output_tokens(choice.num_tokens());
  if (first_token_at_ >= 0) {
    finished.mutable_timings()->set_first_token_ms((first_token_at_ - received_at_) / 1e3);
  }
}

void RequestStream::EndLocked(const absl::Status& status, Effects* effects) {
  if (output_.ended.has_value()) return;
  bool is_running = false;
  for (uint32_t i = 0; i < output_.choices.size(); ++i) {
    if (output_.choices[i].finished.has_value()) continue;
    AbortChoice(i);
    is_running = true;
  }
  if (is_running && link_ != nullptr) CancelAtWorker(std::nullopt, effects);
  output_.ended = status;
  effects->ended = MakeRecord(status);
  request_.model.reset();  // a stream that is kept for retries does not keep the model
  effects->kick = client_.sink;
  effects->cancel_timers.push_back(std::exchange(client_.deadline_timer, 0));
  effects->cancel_timers.push_back(std::exchange(move_timer_, 0));
  effects->cancel_timers.push_back(std::exchange(queue_timer_, 0));
  effects->releases_worker |= std::exchange(runs_alone_, false);
  AdmitWaiting(effects);
}

void RequestStream::EndIfComplete(Effects* effects) {
  if (output_.is_complete()) EndLocked(error_, effects);
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
    if (output_.ended.has_value() || cancelling_) return;
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
                 2 * request_.parameters.SpaceUsedLong();  // output_.accepted has them too
  for (const ChoiceOutput& choice : output_.choices)
    bytes += sizeof(ChoiceOutput) + choice.num_bytes();
  return bytes;
}

// --- What the worker says ---

void RequestStream::OnPromptLogprobs(const worker::v1::EntryLogprobs& logprobs) {
  MutexLock lock(mutex_);
  if (output_.ended.has_value() || logprobs.choice() >= output_.choices.size()) return;
  ChoiceOutput& choice = output_.choices[logprobs.choice()];
  if (choice.finished.has_value()) return;  // nothing comes after the end that its client was told
  choice.AddPromptLogprobs(logprobs.first_prompt_position(), logprobs.prompt());
}

void RequestStream::OnTokens(uint32_t attempt, uint32_t number, uint32_t first_index,
                             absl::Span<const uint32_t> ids,
                             const worker::v1::EntryLogprobs* logprobs) {
  Effects effects;
  const int64_t now = context_.timers->Now();
  int64_t first_token = -1;
  int64_t gap = -1;
  {
    MutexLock lock(mutex_);
    if (output_.ended.has_value() || attempt != attempt_ || number >= output_.choices.size())
      return;
    ChoiceOutput& choice = output_.choices[number];
    if (choice.finished.has_value() || choice.stopped()) return;
    if (first_index > choice.num_tokens()) {
      EndLocked(absl::InternalError(absl::StrCat("worker ", worker_name_, " skipped from token ",
                                                 choice.num_tokens(), " to ", first_index)),
                &effects);
    } else if (first_index + ids.size() > request_.parameters.max_new_tokens()) {
      EndLocked(absl::InternalError(absl::StrCat("worker ", worker_name_, " sent more than the ",
                                                 request_.parameters.max_new_tokens(), " tokens")),
                &effects);
    } else if (choice.LacksLogprobs(first_index + ids.size(), logprobs)) {
      EndLocked(absl::InternalError(absl::StrCat("worker ", worker_name_, " sent tokens from ",
                                                 first_index, " without log-probabilities")),
                &effects);
    } else if (const uint32_t known = choice.num_tokens() - first_index; known < ids.size()) {
      if (first_token_at_ < 0) {
        first_token_at_ = now;
        first_token = now - received_at_;
      }
      if (choice.last_token_at >= 0) gap = now - choice.last_token_at;
      choice.last_token_at = now;
      moving_since_ = -1;
      waited_ = 0;
      num_move_tries_ = 0;
      // Those that refused it may have room by the next move; but one that drains and has it yet.
      const WorkerNumber here = link_ == nullptr ? 0 : link_->number();
      std::erase_if(refused_, [here](WorkerNumber number) { return number != here; });
      const auto stopped = choice.Append(ids.subspan(known));
      if (logprobs != nullptr) choice.AddLogprobs(logprobs->first_index(), logprobs->output());
      if (!losses_.empty()) ClearLosses(&effects);
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

void RequestStream::OnNotice(const v1::Notice& notice) {
  MutexLock lock(mutex_);
  if (output_.ended.has_value() || output_.notices.size() >= kMaxNotices) return;
  v1::Notice& added = output_.notices.emplace_back();
  added.set_kind(notice.kind());
  added.set_why(Printable(notice.why(), kMaxStatusMessageBytes));
}

void RequestStream::OnFinish(const worker::v1::Finish& finish) {
  Effects effects;
  bool moves = false;
  {
    MutexLock lock(mutex_);
    if (output_.ended.has_value() || finish.attempt() != attempt_ ||
        finish.choice() >= output_.choices.size())
      return;
    ChoiceOutput& choice = output_.choices[finish.choice()];
    if (choice.finished.has_value()) return;
    if (finish.status_code() == static_cast<int>(absl::StatusCode::kUnavailable) &&
        !choice.stopped() && is_movable()) {
      // The worker gives up, not the request. It is not asked again before others were.
      if (link_ != nullptr) refused_.insert(link_->number());
      CancelAtWorker(std::nullopt, &effects);  // what it has of the other choices
      LeaveWorker(absl::UnavailableError(finish.status_message()));
      moves = true;
    } else {
      TakeFinish(finish, &effects);
    }
  }
  Carry(effects);
  if (moves) PlaceAndSubmit();
}

void RequestStream::TakeFinish(const worker::v1::Finish& finish, Effects* effects) {
  ChoiceOutput& choice = output_.choices[finish.choice()];
  const auto flushed = choice.Flush(finish.reason() == v1::Finished::ABORTED);
  v1::Finished& finished = FinishChoice(finish.choice(), finish.reason());
  *finished.mutable_usage() = finish.usage();
  *finished.mutable_timings() = finish.timings();
  finished.DiscardUnknownFields();
  if (choice.stopped()) {
    finished.mutable_usage()->set_output_tokens(choice.num_tokens());
  } else if (finish.has_stop_token_id()) {
    finished.set_stop_token_id(finish.stop_token_id());
  }
  if (first_token_at_ >= 0) {
    finished.mutable_timings()->set_first_token_ms((first_token_at_ - received_at_) / 1e3);
  }
  absl::Status problem = flushed.ok() ? absl::OkStatus() : flushed.status();
  if (!choice.stopped() && finish.status_code() != 0) {
    problem =
        absl::Status(static_cast<absl::StatusCode>(finish.status_code()), finish.status_message());
    if (absl::IsUnavailable(problem)) problem = WithRetryDelay(problem, kRetryDelayMs);
  }
  if (!problem.ok() && error_.ok()) {
    // One choice that fails takes the request with it.
    error_ = problem;
    CancelAtWorker(std::nullopt, effects);
  }
  EndIfComplete(effects);
}

void RequestStream::OnMessageEnd() {
  Effects effects;
  {
    MutexLock lock(mutex_);
    effects.kick = client_.sink;
    AdmitWaiting(&effects);
  }
  Carry(effects);
}

}  // namespace quire
