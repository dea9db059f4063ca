// How a request comes to a worker, and to the next one when that is lost, refuses it or drains.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/printable.h"
#include "common/rpc_status.h"
#include "coordinator/stream/request_stream.h"

namespace quire {
namespace {

// A request without a worker looks for one again after this long, then after twice as long each
// time.
constexpr int64_t kFirstMoveRetryMicros = 20'000;
constexpr int64_t kLastMoveRetryMicros = 320'000;

// Two workers that die of a request do so one soon after the other.
constexpr int64_t kLossMicros = 10 * 60 * int64_t{1'000'000};

int64_t MoveRetryDelay(uint32_t num_tries) {
  return std::min(kFirstMoveRetryMicros << std::min(num_tries, 10u), kLastMoveRetryMicros);
}

}  // namespace

void RequestStream::LimitQueueing(uint32_t queue_timeout_ms) {
  MutexLock lock(mutex_);
  if (output_.ended.has_value()) return;
  queue_deadline_ = received_at_ + int64_t{queue_timeout_ms} * 1000;
  queue_timer_ = context_.timers->Schedule(*queue_deadline_, [stream = weak_from_this()] {
    if (const auto locked = stream.lock()) locked->OnQueueDeadline();
  });
}

void RequestStream::OnQueueDeadline() {
  Effects effects;
  {
    MutexLock lock(mutex_);
    if (is_queue_timeout(context_.timers->Now())) EndLocked(QueueTimeout(), &effects);
  }
  Carry(effects);
}

absl::Status RequestStream::QueueTimeout() const {
  return absl::DeadlineExceededError(absl::StrCat("queue_timeout_ms passed after ",
                                                  (context_.timers->Now() - received_at_) / 1000,
                                                  " ms in the coordinator's queue, 0 tokens out"));
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
  for (const ChoiceOutput& choice : output_.choices) {
    submit.add_emitted()->mutable_emitted_token_ids()->Add(choice.ids().begin(),
                                                           choice.ids().end());
    submit.add_choice_finished(choice.finished.has_value());
  }
  if (queue_deadline_.has_value() && first_token_at_ < 0) {
    const int64_t left_ms = (*queue_deadline_ - context_.timers->Now()) / 1000;
    submit.set_queue_timeout_ms(static_cast<uint32_t>(std::max<int64_t>(1, left_ms)));
  }
  return submit;
}

void RequestStream::Accept(const WorkerView& view, bool drains) {
  const std::string before = std::exchange(worker_name_, view.info.name());
  if (output_.accepted.has_value()) {
    if (output_.notices.size() < kMaxNotices) {
      v1::Notice& notice = output_.notices.emplace_back();
      notice.set_kind(v1::Notice::MIGRATED);
      const std::string why = drains               ? absl::StrCat(before, " drains")
                              : moving_since_ >= 0 ? absl::StrCat(before, ": ", moving_why_)
                                                   : absl::StrCat(before, " had no room");
      notice.set_why(absl::StrCat(why, "; the request runs on ", worker_name_));
    }
    return;
  }
  v1::Accepted& accepted = output_.accepted.emplace();
  accepted.set_request_id(request_id_);
  *accepted.mutable_parameters() = request_.parameters;
  accepted.set_prompt_token_count(static_cast<uint32_t>(request_.prompt.size()));
  accepted.set_worker(worker_name_);
  accepted.set_numerics_id(view.info.numerics_id());
}

std::optional<Placement> RequestStream::WantedPlacement(Effects* effects) {
  if (output_.ended.has_value()) return std::nullopt;
  if (cancelling_) {
    // A Cancel that went to a worker which did not have the request.
    EndLocked(error_, effects);
    return std::nullopt;
  }
  Placement placement;
  placement.model = request_.model->name();
  placement.engine = request_.engine;
  placement.worker = request_.worker;
  placement.cache_salt = request_.cache_salt;
  placement.tenant = request_.tenant;
  placement.prompt = &request_.prompt;  // not changed after Begin
  placement.max_new_tokens = request_.parameters.max_new_tokens();
  placement.num_choices = request_.parameters.n();
  placement.refused = refused_;
  placement.numerics_id =
      output_.accepted.has_value() ? output_.accepted->numerics_id() : request_.numerics_id;
  placement.is_move = moving_since_ >= 0 || link_ != nullptr;
  if (MayRunAlone()) {
    runs_alone_ = true;
    placement.alone = key_;
  } else {
    effects->releases_worker = std::exchange(runs_alone_, false);
  }
  return placement;
}

void RequestStream::PlaceAndSubmit() {
  {
    MutexLock lock(mutex_);
    if (is_placing_) return;  // that thread sees what has changed
    is_placing_ = true;
  }
  for (;;) {
    std::optional<Placement> placement;
    Effects ended;
    {
      MutexLock lock(mutex_);
      placement = WantedPlacement(&ended);
      if (!placement.has_value()) is_placing_ = false;
    }
    Carry(ended);
    if (!placement.has_value()) return;
    const auto placed = context_.placer->Place(*placement);
    const bool as_suspect = placement->alone != 0;
    if (!placed.ok()) return StayUnplaced(placed.status(), as_suspect);
    if (SubmitTo(*placed, as_suspect) == Placed::kDone) return;
  }
}

RequestStream::Placed RequestStream::SubmitTo(const std::shared_ptr<WorkerLink>& link,
                                              bool as_suspect) {
  worker::v1::Submit submit;
  Effects effects;
  bool complete = false;
  bool is_over = false;
  {
    MutexLock lock(mutex_);
    // One that drains has it still, and may have failed it by now.
    const bool drains = link_ != nullptr;
    is_over = output_.ended.has_value() || (drains && !is_movable());
    if (is_over) {
      is_placing_ = false;
      effects.releases_worker = output_.ended.has_value();  // that Place may have kept meanwhile
    } else {
      effects.releases_worker = as_suspect && !runs_alone_;  // it was cleared before Place kept it
      if (drains) {
        // What it says from now on is void. If the other does not take it, it waits for a third.
        CancelAtWorker(std::nullopt, &effects);
        effects.cancels.back().set_moved(true);
        StartMoving("the worker drains");
      }
      FinishStopped();
      ++attempt_;
      link_ = link;
      if (moving_since_ >= 0) waited_ = context_.timers->Now() - moving_since_;
      Accept(link->View(), drains);
      submit = MakeSubmit();
      complete = output_.is_complete();
      if (complete) is_placing_ = false;
    }
  }
  Carry(effects);
  if (is_over) return Placed::kDone;
  if (complete) {  // what was emitted had ended every choice
    End(absl::OkStatus());
    return Placed::kDone;
  }
  if (!link->Submit(std::move(submit), shared_from_this())) {
    MutexLock lock(mutex_);
    refused_.insert(link->number());
    link_ = nullptr;  // a Cancel from now on ends the request here
    return Placed::kTryMore;
  }
  // Whoever ended or cancelled it meanwhile could not reach the worker.
  effects = Effects();
  {
    MutexLock lock(mutex_);
    if (link_ == nullptr && !output_.ended.has_value()) return Placed::kTryMore;  // lost by now
    const bool ends = output_.ended.has_value() || cancelling_;
    if (!ends && is_movable() && refused_.contains(link->number())) {
      return Placed::kTryMore;  // it began to drain meanwhile
    }
    is_placing_ = false;
    if (ends) {
      CancelAtWorker(std::nullopt, &effects);
      effects.link = link;
    }
    effects.kick = client_.sink;
    AdmitWaiting(&effects);
  }
  Carry(effects);
  return Placed::kDone;
}

void RequestStream::StayUnplaced(const absl::Status& status, bool as_suspect) {
  Effects effects;
  {
    MutexLock lock(mutex_);
    is_placing_ = false;
    // Place may have kept one for it after it had ended or was cleared.
    effects.releases_worker = output_.ended.has_value() || (as_suspect && !runs_alone_);
    if (!output_.ended.has_value() && link_ == nullptr) {  // else it goes on where it is
      Wait(status, &effects);
    }
  }
  Carry(effects);
}

void RequestStream::Wait(const absl::Status& status, Effects* effects) {
  FinishStopped();
  const int64_t now = context_.timers->Now();
  // One that no worker had here was never accepted, and cannot end well without that.
  if (output_.accepted.has_value() && output_.is_complete()) {
    EndLocked(absl::OkStatus(), effects);
  } else if (moving_since_ < 0) {
    const bool is_full = absl::IsResourceExhausted(status) && retry_after_ms_.has_value();
    EndLocked(is_full ? WithRetryDelay(status, *retry_after_ms_) : status, effects);
  } else if (is_queue_timeout(now)) {
    EndLocked(QueueTimeout(), effects);
  } else if (now - moving_since_ >= context_.move_timeout) {
    EndLocked(WithRetryDelay(
                  absl::UnavailableError(absl::StrCat(
                      moving_why_, "; no worker that gives the same tokens took the request in ",
                      (now - moving_since_) / 1000, " ms: ", status.message())),
                  kRetryDelayMs),
              effects);
  } else {
    refused_.clear();  // by then there may be room
    retry_after_ms_.reset();
    const int64_t delay = MoveRetryDelay(num_move_tries_++);
    move_timer_ = context_.timers->Schedule(
        std::min(now + delay, moving_since_ + context_.move_timeout), [stream = weak_from_this()] {
          if (const auto locked = stream.lock()) locked->PlaceAndSubmit();
        });
  }
}

void RequestStream::LeaveWorker(const absl::Status& why) {
  link_ = nullptr;
  has_left_worker_ = true;
  ++attempt_;
  StartMoving(why.message());
}

void RequestStream::StartMoving(absl::string_view why) {
  moving_why_ = Printable(why, kMaxStatusMessageBytes);
  moving_since_ = context_.timers->Now() - waited_;
}

bool RequestStream::CountLoss(WorkerLoss loss) {
  if (loss == WorkerLoss::kUnheard || loss == WorkerLoss::kDrained) return false;
  if (context_.quarantine_after == 0) return false;
  const int64_t now = context_.timers->Now();
  std::erase_if(losses_, [now](int64_t at) { return now - at > kLossMicros; });
  losses_.push_back(now);
  NoteTokensAtLoss();
  return runs_alone_ && losses_.size() > context_.quarantine_after;
}

void RequestStream::NoteTokensAtLoss() {
  num_tokens_at_loss_.clear();
  for (const ChoiceOutput& choice : output_.choices) {
    num_tokens_at_loss_.push_back(choice.num_tokens());
  }
}

void RequestStream::ClearLosses(Effects* effects) {
  for (size_t i = 0; i < output_.choices.size(); ++i) {
    const ChoiceOutput& choice = output_.choices[i];
    if (choice.finished.has_value() || choice.stopped()) continue;
    if (choice.num_tokens() < num_tokens_at_loss_[i] + kClearingTokens) return;
  }
  losses_.clear();
  effects->releases_worker = std::exchange(runs_alone_, false);
}

bool RequestStream::MayRunAlone() const {
  if (context_.quarantine_after == 0 || losses_.size() < context_.quarantine_after) return false;
  // Where others run at all times it would wait for ever.
  return context_.timers->Now() - losses_.back() < context_.move_timeout / 2;
}

void RequestStream::FinishStopped() {
  for (uint32_t i = 0; i < output_.choices.size(); ++i) {
    ChoiceOutput& choice = output_.choices[i];
    if (!choice.stopped() || choice.finished.has_value()) continue;
    v1::Finished& finished = FinishChoice(i, v1::Finished::STOP);
    finished.mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(request_.prompt.size()));
    finished.mutable_usage()->set_output_tokens(choice.num_tokens());
  }
}

void RequestStream::OnRejected(uint32_t attempt, const absl::Status& status) {
  // Its queue had filled up, or it began to drain: another worker may have room.
  Effects effects;
  {
    MutexLock lock(mutex_);
    if (output_.ended.has_value() || attempt != attempt_) return;
    // Another worker took it before: that this one does not says nothing of the request.
    const bool try_another = absl::IsResourceExhausted(status) || absl::IsUnavailable(status) ||
                             has_left_worker_ || first_token_at_ >= 0;
    if (link_ != nullptr) refused_.insert(link_->number());
    if (const auto delay_ms = RetryDelayOf(status); delay_ms.has_value()) {
      retry_after_ms_ = std::min(retry_after_ms_.value_or(*delay_ms), *delay_ms);
    }
    link_ = nullptr;
    if (cancelling_ || !try_another) {
      EndLocked(cancelling_ ? error_ : status, &effects);
    } else if (moving_since_ < 0 && first_token_at_ >= 0) {
      LeaveWorker(status);
    }
  }
  effects.ended.has_value() ? Carry(effects) : PlaceAndSubmit();
}

void RequestStream::OnWorkerLost(uint32_t attempt, WorkerLoss loss, const absl::Status& status) {
  Effects effects;
  {
    MutexLock lock(mutex_);
    if (output_.ended.has_value() || attempt != attempt_) return;
    link_ = nullptr;
    if (!is_movable()) {
      EndLocked(error_.ok() ? WithRetryDelay(status, kRetryDelayMs) : error_, &effects);
    } else if (CountLoss(loss)) {
      effects.is_quarantined = true;
      EndLocked(
          absl::FailedPreconditionError(absl::StrCat(
              "quarantined: ", losses_.size(),
              " workers were lost while they ran this request, none of which "
              "came far beyond the one before, and the last had nothing else of this coordinator: ",
              status.message())),
          &effects);
    } else {
      LeaveWorker(status);
    }
  }
  effects.ended.has_value() ? Carry(effects) : PlaceAndSubmit();
}

void RequestStream::OnWorkerDraining(uint32_t attempt) {
  {
    MutexLock lock(mutex_);
    if (output_.ended.has_value() || attempt != attempt_ || !is_movable()) return;
    if (link_ != nullptr) refused_.insert(link_->number());
  }
  PlaceAndSubmit();
}

}  // namespace quire
