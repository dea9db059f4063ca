#include "scheduler/batch/serial_scheduler.h"

#include <algorithm>
#include <utility>

#include "scheduler/batch/sequence_errors.h"
#include "scheduler/check.h"

namespace quire {

absl::Status SerialScheduler::Add(SequenceSpec spec, Micros now) {
  // One that waits for no more than the next step does not count.
  const size_t most_waiting = size_t{max_queue_} + (running_.has_value() ? 0u : 1u);
  if (!spec.prompt_source.has_value() && waiting_.size() >= most_waiting) {
    return QueueFullError(waiting_.size());
  }
  Sequence sequence;
  sequence.spec = std::move(spec);
  sequence.arrived_at = now;
  waiting_.push_back(std::move(sequence));
  return absl::OkStatus();
}

void SerialScheduler::Abort(SequenceTag tag, absl::Status status,
                            std::optional<uint32_t> output_tokens, Micros now,
                            SequenceEvents* events) {
  if (running_.has_value() && running_->spec.tag == tag) {
    Finish(*running_, FinishReason::kAborted, std::nullopt, std::move(status), now, events);
    running_.reset();
    aborted_ = in_flight_;
  } else {
    const auto found = std::find_if(waiting_.begin(), waiting_.end(),
                                    [tag](const Sequence& other) { return other.spec.tag == tag; });
    QUIRE_CHECK(found != waiting_.end());
    Finish(*found, FinishReason::kAborted, std::nullopt, std::move(status), now, events);
    waiting_.erase(found);
  }
  if (output_tokens.has_value()) {
    uint32_t& counted = events->finishes.back().usage.output_tokens;
    counted = std::min(counted, *output_tokens);
  }
}

bool SerialScheduler::Plan(Micros now, StepPlan* plan, SequenceEvents* events) {
  plan->Clear();
  for (auto next = waiting_.begin(); next != waiting_.end();) {
    if (!next->spec.queue_deadline.has_value() || *next->spec.queue_deadline > now) {
      ++next;
      continue;
    }
    Finish(*next, FinishReason::kAborted, std::nullopt, QueueTimeoutError(now - next->arrived_at),
           now, events);
    next = waiting_.erase(next);
  }
  if (in_flight_) return false;
  const bool starts = !running_.has_value();
  if (starts) {
    if (waiting_.empty()) return false;
    running_ = std::move(waiting_.front());
    waiting_.pop_front();
    running_->first_planned_at = now;
    if (occupied_) plan->freed.push_back(kSlot);
    SlotFill fill;
    fill.slot = kSlot;
    fill.tokens = running_->spec.tokens;
    fill.num_prompt_tokens = running_->spec.num_prompt_tokens;
    fill.params = running_->spec.params;
    plan->filled.push_back(std::move(fill));
    occupied_ = true;
  }
  const uint32_t run = starts ? static_cast<uint32_t>(running_->spec.tokens.size()) : 1;
  plan->step = next_step_++;
  plan->runs.push_back({kSlot, run, true});
  plan->num_tokens = run;
  in_flight_ = true;
  return true;
}

void SerialScheduler::Settle(StepResult& result, Micros now, SequenceEvents* events) {
  QUIRE_CHECK(in_flight_ && result.step + 1 == next_step_ && result.outputs.size() == 1);
  in_flight_ = false;
  kv_ = result.kv;
  if (std::exchange(aborted_, false)) return;
  running_->max_unused_tokens =
      std::max(running_->max_unused_tokens,
               static_cast<uint32_t>((kv_.reserved - kv_.used) / kv_bytes_per_token_));
  const SlotOutput& output = result.outputs[0];
  if (output.fault != NumericFault::kNone) {
    Finish(*running_, FinishReason::kAborted, std::nullopt,
           NumericFaultError(output.fault, running_->num_output_tokens()), now, events);
    running_.reset();
    return;
  }
  QUIRE_CHECK(output.num_tokens == 1);
  const TokenId token = result.tokens[output.first_token];
  const uint32_t index = running_->num_output_tokens();
  events->tokens.push_back({running_->spec.tag, index, token});
  if (!result.logprobs.empty()) {
    events->logprobs.push_back({running_->spec.tag, index, std::move(result.logprobs[0].tokens),
                                std::move(result.logprobs[0].prompt)});
  }
  running_->spec.tokens.push_back(token);
  if (running_->first_token_at < 0) running_->first_token_at = now;
  running_->last_token_at = now;

  const std::vector<TokenId>& stops = running_->spec.params->stop_token_ids;
  if (std::binary_search(stops.begin(), stops.end(), token)) {
    Finish(*running_, FinishReason::kStop, token, absl::OkStatus(), now, events);
    running_.reset();
  } else if (running_->num_output_tokens() >= running_->spec.max_output_tokens) {
    Finish(*running_, FinishReason::kLength, std::nullopt, absl::OkStatus(), now, events);
    running_.reset();
  }
}

void SerialScheduler::Finish(const Sequence& sequence, FinishReason reason,
                             std::optional<TokenId> stop_token, absl::Status status, Micros now,
                             SequenceEvents* events) {
  SequenceEvents::Finish finish;
  finish.tag = sequence.spec.tag;
  finish.reason = reason;
  finish.stop_token = stop_token;
  finish.status = std::move(status);
  finish.usage.prompt_tokens = sequence.spec.num_prompt_tokens;
  finish.usage.output_tokens = sequence.num_output_tokens();
  const bool planned = sequence.first_planned_at >= 0;
  finish.timings.queued = (planned ? sequence.first_planned_at : now) - sequence.arrived_at;
  if (planned) {
    finish.usage.kv_reserved_bytes = kv_.reserved;
    finish.usage.kv_used_bytes = kv_.used;
    finish.usage.kv_max_unused_tokens = sequence.max_unused_tokens;
  }
  if (sequence.first_token_at >= 0) {
    finish.timings.prefill = sequence.first_token_at - sequence.first_planned_at;
    finish.timings.decode = sequence.last_token_at - sequence.first_token_at;
  }
  events->finishes.push_back(std::move(finish));
}

SchedulerLoad SerialScheduler::load() const {
  SchedulerLoad load;
  load.running = running_.has_value() ? 1 : 0;
  load.waiting = static_cast<uint32_t>(waiting_.size());
  load.kv_reserved_bytes = kv_.reserved;
  load.kv_used_bytes = kv_.used;
  return load;
}

}  // namespace quire
