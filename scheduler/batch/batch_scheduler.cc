#include "scheduler/batch/batch_scheduler.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/batch/sequence_errors.h"
#include "scheduler/check.h"

namespace quire {

BatchScheduler::BatchScheduler(const Options& options)
    : options_(options), kv_(options.kv), waiting_(options.weights) {
  QUIRE_CHECK(options.max_num_seqs > 0);
  QUIRE_CHECK(options.max_num_batched_tokens >= options.max_num_seqs);
  for (SlotId slot = options.max_num_seqs; slot-- > 0;) free_slots_.push_back(slot);
}

BatchScheduler::~BatchScheduler() = default;

absl::Status BatchScheduler::Add(SequenceSpec spec, Micros now) {
  QUIRE_CHECK(spec.num_prompt_tokens > 0 && spec.tokens.size() >= spec.num_prompt_tokens);
  QUIRE_CHECK(spec.tokens.size() < spec.num_prompt_tokens + size_t{spec.max_output_tokens});
  const uint32_t needed = kv_.BlocksFor(spec.num_prompt_tokens + spec.max_output_tokens);
  if (needed > kv_.pool().num_blocks()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the request needs ", needed, " KV blocks of ", kv_.block_size(),
                     " tokens and the worker has ", kv_.pool().num_blocks()));
  }
  // Those who wait for no more than the next step do not count.
  if (!spec.prompt_source.has_value() &&
      waiting_.size() >= options_.max_queue + free_slots_.size()) {
    return QueueFullError(waiting_.size());
  }

  auto sequence = std::make_unique<ScheduledSequence>();
  sequence->spec = std::move(spec);
  sequence->arrival = next_arrival_++;
  sequence->arrived_at = now;
  sequence->rank = RankOf(sequence->spec, now);
  sequence->usage.prompt_tokens = sequence->spec.num_prompt_tokens;
  sequence->stop_token_ids = sequence->spec.params->stop_token_ids;
  // What came with emitted tokens was computed somewhere before.
  if (sequence->num_output_tokens() > 0) sequence->most_planned = sequence->num_tokens() - 1;
  if (const auto source = sequence->spec.prompt_source; source.has_value()) {
    QUIRE_CHECK(*source < sequences_.size() && sequences_[*source] != nullptr);
    if (sequence->num_prompt_blocks(kv_.block_size()) > 0) {
      sequence->prompt_source = sequences_[*source].get();
      sequence->prompt_source->prompt_dependents.push_back(sequence.get());
    }
  }
  const SequenceTag tag = sequence->spec.tag;
  if (sequences_.size() <= tag) sequences_.resize(tag + 1);
  QUIRE_CHECK(sequences_[tag] == nullptr);
  waiting_.Enter(sequence.get());
  sequences_[tag] = std::move(sequence);
  return absl::OkStatus();
}

Micros BatchScheduler::RankOf(const SequenceSpec& spec, Micros now) const {
  if (options_.priority_aging == 0) return -Micros{spec.priority};
  return now - spec.priority * options_.priority_aging;
}

void BatchScheduler::Abort(SequenceTag tag, absl::Status status,
                           std::optional<uint32_t> output_tokens, Micros now,
                           SequenceEvents* events) {
  QUIRE_CHECK(tag < sequences_.size() && sequences_[tag] != nullptr);
  Finish(sequences_[tag].get(), FinishReason::kAborted, std::nullopt, std::move(status), now,
         events);
  if (output_tokens.has_value()) {
    uint32_t& counted = events->finishes.back().usage.output_tokens;
    counted = std::min(counted, *output_tokens);
  }
}

bool BatchScheduler::Plan(Micros now, StepPlan* plan, SequenceEvents* events) {
  plan->Clear();
  ExpireWaiting(now, events);
  const uint64_t preemptions_before = num_preemptions_;
  uint32_t budget = options_.max_num_batched_tokens;
  if (PlanDecodes(&budget, events)) PlanPrompts(&budget, events);
  // What was just preempted must not come back into the room that it made.
  if (num_preemptions_ == preemptions_before) AdmitWaiting(&budget, now);
  if (budget == options_.max_num_batched_tokens) return false;
  WritePlan(plan);
  return true;
}

void BatchScheduler::ExpireWaiting(Micros now, SequenceEvents* events) {
  if (!waiting_.next_deadline().has_value() || *waiting_.next_deadline() > now) return;
  for (ScheduledSequence* sequence : waiting_.Expired(now)) {
    Finish(sequence, FinishReason::kAborted, std::nullopt,
           QueueTimeoutError(now - sequence->arrived_at), now, events);
  }
  waiting_.RefreshDeadline();
}

bool BatchScheduler::PlanDecodes(uint32_t* budget, SequenceEvents* events) {
  bool any_prompt = false;
  // Preemption shortens running_ from its end, at most to i.
  for (size_t i = 0; i < running_.size() && *budget > 0; ++i) {
    ScheduledSequence* sequence = running_[i];
    const uint32_t runnable = sequence->num_runnable();
    any_prompt |= runnable > 1;
    if (runnable != 1) continue;
    bool preempted_itself = false;
    while (!kv_.Reserve(sequence->num_planned + 1, &sequence->table)) {
      preempted_itself = running_.back() == sequence;
      PreemptLast(budget, events);
      if (preempted_itself) break;
    }
    if (preempted_itself) break;
    sequence->next_run = 1;
    --*budget;
  }
  return any_prompt;
}

void BatchScheduler::PlanPrompts(uint32_t* budget, SequenceEvents* events) {
  for (size_t i = 0; i < running_.size() && *budget > 0; ++i) {
    ScheduledSequence* sequence = running_[i];
    const uint32_t runnable = sequence->num_runnable();
    if (runnable <= 1) continue;
    // A chunk takes what blocks there are; only when there is none at all do later-served ones give
    // way.
    const auto room = [&] {
      const uint64_t blocks = uint64_t{sequence->table.num_blocks()} + kv_.pool().num_available();
      return blocks * kv_.block_size() - sequence->num_planned;
    };
    while (room() == 0 && running_.back() != sequence) PreemptLast(budget, events);
    const uint32_t chunk = static_cast<uint32_t>(std::min<uint64_t>({runnable, *budget, room()}));
    if (chunk == 0) continue;
    QUIRE_CHECK(kv_.Reserve(sequence->num_planned + chunk, &sequence->table));
    sequence->next_run = chunk;
    *budget -= chunk;
  }
}

void BatchScheduler::AdmitWaiting(uint32_t* budget, Micros now) {
  const auto is_ready = [this](const ScheduledSequence& sequence) {
    // A preempted sequence's last sample may still be on its way.
    return sequence.num_in_flight == 0 && !WaitsForPrompt(sequence);
  };
  while (*budget > 0 && !free_slots_.empty()) {
    ScheduledSequence* sequence = waiting_.Next(is_ready);
    if (sequence == nullptr) return;
    // No one overtakes a sequence that does not fit: it would starve.
    if (IsStillBlocked(*sequence) || !Admit(sequence, *budget, now)) {
      return waiting_.Hold(sequence);
    }
    *budget -= sequence->next_run;
  }
}

bool BatchScheduler::WaitsForPrompt(const ScheduledSequence& sequence) const {
  const ScheduledSequence* source = sequence.prompt_source;
  return source != nullptr &&
         source->num_computed < sequence.num_prompt_blocks(kv_.block_size()) * kv_.block_size();
}

bool BatchScheduler::IsStillBlocked(const ScheduledSequence& sequence) const {
  return blocked_head_ == &sequence && !kv_.CanExtend(blocked_prefix_, sequence.tokens());
}

bool BatchScheduler::Admit(ScheduledSequence* sequence, uint32_t budget, Micros now) {
  const bool wants_prompt_logprobs =
      sequence->spec.params->prompt_logprobs.has_value() && !sequence->prompt_logprobs_delivered;
  uint32_t cached;
  PrefixEnd prefix;
  if (sequence->prompt_source != nullptr) {
    const uint32_t shared = sequence->num_prompt_blocks(kv_.block_size());
    kv_.ShareBlocks(sequence->spec.cache_salt, sequence->tokens(), sequence->prompt_source->table,
                    shared, &sequence->table);
    cached = shared * kv_.block_size();
  } else {
    // The last known token is always run, for its logits.
    const uint32_t most = wants_prompt_logprobs ? 0 : sequence->num_tokens() - 1;
    cached = kv_.AdoptPrefix(sequence->spec.cache_salt, sequence->tokens(), most, &sequence->table);
    prefix = kv_.EndOfPrefix(sequence->table, most);
  }
  // All known tokens must fit now, though blocks are taken chunk by chunk; and some room is left
  // for those who run to grow, lest they preempt the newcomer at once.
  const uint32_t needed = kv_.BlocksFor(sequence->num_tokens()) - sequence->table.num_blocks();
  const uint32_t headroom = running_.empty() ? 0 : kv_.pool().num_blocks() / 100;
  if (needed + headroom > kv_.pool().num_available()) {
    kv_.Release(&sequence->table);
    blocked_head_ = sequence;
    blocked_prefix_ = prefix;
    return false;
  }

  sequence->next_run = std::min(sequence->num_tokens() - cached, budget);
  QUIRE_CHECK(kv_.Reserve(cached + sequence->next_run, &sequence->table));
  sequence->num_planned = sequence->num_computed = cached;
  used_tokens_ += cached;
  sequence->next_commit = kv_.NextCommit(sequence->table);
  sequence->slot = free_slots_.back();
  free_slots_.pop_back();
  sequence->filled = false;
  ++sequence->stay;
  // The tokens of an attempt elsewhere were charged there.
  const uint32_t prompt = sequence->spec.num_prompt_tokens;
  waiting_.LetIn(sequence, prompt - std::min(cached, prompt));
  sequence->state = ScheduledSequence::State::kRunning;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence, ServedBefore()),
                  sequence);

  // Blocks shared among the choices of a request are no hit.
  const uint32_t hit = sequence->prompt_source == nullptr ? cached : 0;
  if (sequence->prompt_source == nullptr) prefix_query_tokens_ += sequence->num_tokens();
  prefix_hit_tokens_ += hit;
  if (sequence->first_planned_at < 0) {
    sequence->first_planned_at = now;
    sequence->usage.cached_tokens = std::min(hit, sequence->spec.num_prompt_tokens);
  }
  return true;
}

void BatchScheduler::PreemptLast(uint32_t* budget, SequenceEvents* events) {
  ScheduledSequence* victim = running_.back();
  *budget += victim->next_run;
  victim->next_run = 0;
  running_.pop_back();
  LeaveSlot(victim);
  victim->state = ScheduledSequence::State::kWaiting;
  // It has begun to run: its queue timeout is met.
  victim->spec.queue_deadline.reset();
  waiting_.ComeBack(victim);
  ++num_preemptions_;
  events->preempted.push_back(victim->spec.tag);
}

void BatchScheduler::WritePlan(StepPlan* plan) {
  plan->step = next_step_++;
  plan->freed.swap(freed_slots_);
  PlannedStep planned;
  planned.step = plan->step;
  if (!spare_runs_.empty()) {
    planned.runs = std::move(spare_runs_.back());
    spare_runs_.pop_back();
  }
  for (ScheduledSequence* sequence : running_) {
    const uint32_t run = std::exchange(sequence->next_run, 0);
    if (run == 0) continue;
    if (!sequence->filled) {
      SlotFill fill;
      fill.slot = sequence->slot;
      fill.tokens = sequence->tokens();
      fill.num_prompt_tokens = sequence->spec.num_prompt_tokens;
      fill.num_cached_tokens = sequence->num_planned;
      for (uint32_t i = 0; i < sequence->table.num_blocks(); ++i) {
        fill.blocks.push_back(sequence->table.block(i));
      }
      fill.params = sequence->spec.params;
      plan->filled.push_back(std::move(fill));
      sequence->filled = true;
    } else {
      for (uint32_t i = sequence->num_blocks_sent; i < sequence->table.num_blocks(); ++i) {
        plan->appended.push_back({sequence->slot, sequence->table.block(i)});
      }
    }
    sequence->num_blocks_sent = sequence->table.num_blocks();

    const uint32_t end = sequence->num_planned + run;
    const bool samples = end == sequence->expected_tokens();
    plan->runs.push_back({sequence->slot, run, samples});
    plan->num_tokens += run;
    planned.runs.push_back({sequence, sequence->stay, run, samples});

    if (sequence->num_planned < sequence->most_planned) {
      sequence->usage.recomputed_tokens +=
          std::min(end, sequence->most_planned) - sequence->num_planned;
    }
    sequence->num_planned = end;
    used_tokens_ += run;
    sequence->most_planned = std::max(sequence->most_planned, end);
    sequence->max_unused_tokens = std::max(sequence->max_unused_tokens,
                                           sequence->table.num_blocks() * kv_.block_size() - end);
    ++sequence->num_in_flight;
    sequence->num_samples_in_flight += samples ? 1 : 0;
  }
  in_flight_.push_back(std::move(planned));
}

void BatchScheduler::Settle(StepResult& result, Micros now, SequenceEvents* events) {
  QUIRE_CHECK(!in_flight_.empty() && in_flight_.front().step == result.step);
  PlannedStep planned = std::move(in_flight_.front());
  in_flight_.pop_front();
  QUIRE_CHECK(result.outputs.size() == planned.runs.size());
  size_t next_logprobs = 0;
  for (size_t i = 0; i < planned.runs.size(); ++i) {
    StepResult::Logprobs* logprobs = nullptr;
    if (next_logprobs < result.logprobs.size() && result.logprobs[next_logprobs].output == i) {
      logprobs = &result.logprobs[next_logprobs++];
    }
    SettleRun(planned.runs[i], result.outputs[i], result, logprobs, now, events);
  }
  planned.runs.clear();
  spare_runs_.push_back(std::move(planned.runs));
}

void BatchScheduler::SettleRun(const PlannedRun& run, const SlotOutput& output,
                               const StepResult& result, StepResult::Logprobs* logprobs, Micros now,
                               SequenceEvents* events) {
  ScheduledSequence* sequence = run.sequence;
  --sequence->num_in_flight;
  sequence->num_samples_in_flight -= run.samples ? 1 : 0;
  if (sequence->state == ScheduledSequence::State::kFinished) {
    if (sequence->num_in_flight > 0) return;
    std::erase_if(lingering_, [sequence](const auto& other) { return other.get() == sequence; });
    return;
  }
  if (output.fault != NumericFault::kNone) {
    Finish(sequence, FinishReason::kAborted, std::nullopt,
           NumericFaultError(output.fault, sequence->num_output_tokens()), now, events);
    return;
  }
  if (run.stay == sequence->stay && sequence->state == ScheduledSequence::State::kRunning) {
    sequence->num_computed += run.num_tokens;
    if (sequence->num_computed >= sequence->next_commit) {
      kv_.Commit(sequence->tokens(), sequence->num_computed, &sequence->table);
      sequence->next_commit = kv_.NextCommit(sequence->table);
    }
  }
  if (logprobs != nullptr && !sequence->prompt_logprobs_delivered && !logprobs->prompt.empty()) {
    sequence->prompt_logprobs.resize(sequence->spec.num_prompt_tokens - 1);
    for (size_t i = 0; i < logprobs->prompt.size(); ++i) {
      sequence->prompt_logprobs[logprobs->first_prompt_position - 1 + i] =
          std::move(logprobs->prompt[i]);
    }
  }
  if (!run.samples) return;
  QUIRE_CHECK(output.num_tokens == 1);
  TakeToken(sequence, result.tokens[output.first_token], logprobs, now, events);
  FinishIfDone(sequence, now, events);
}

void BatchScheduler::TakeToken(ScheduledSequence* sequence, TokenId token,
                               StepResult::Logprobs* logprobs, Micros now, SequenceEvents* events) {
  const uint32_t index = sequence->num_output_tokens();
  sequence->spec.tokens.push_back(token);
  waiting_.Charge(*sequence, 1);
  if (sequence->first_token_at < 0) sequence->first_token_at = now;
  sequence->last_token_at = now;
  events->tokens.push_back({sequence->spec.tag, index, token});
  const bool delivers_prompt = !sequence->prompt_logprobs.empty();
  if (delivers_prompt || (logprobs != nullptr && !logprobs->tokens.empty())) {
    SequenceEvents::Logprobs event;
    event.tag = sequence->spec.tag;
    event.index = index;
    if (logprobs != nullptr) event.output = std::move(logprobs->tokens);
    event.prompt = std::move(sequence->prompt_logprobs);
    sequence->prompt_logprobs.clear();
    events->logprobs.push_back(std::move(event));
  }
  sequence->prompt_logprobs_delivered = true;
}

void BatchScheduler::FinishIfDone(ScheduledSequence* sequence, Micros now, SequenceEvents* events) {
  const TokenId last = sequence->tokens().back();
  const std::span<const TokenId> stops = sequence->stop_token_ids;
  if (std::binary_search(stops.begin(), stops.end(), last)) {
    Finish(sequence, FinishReason::kStop, last, absl::OkStatus(), now, events);
  } else if (sequence->num_output_tokens() >= sequence->spec.max_output_tokens) {
    Finish(sequence, FinishReason::kLength, std::nullopt, absl::OkStatus(), now, events);
  }
}

void BatchScheduler::Finish(ScheduledSequence* sequence, FinishReason reason,
                            std::optional<TokenId> stop_token, absl::Status status, Micros now,
                            SequenceEvents* events) {
  SequenceEvents::Finish finish;
  finish.tag = sequence->spec.tag;
  finish.reason = reason;
  finish.stop_token = stop_token;
  finish.status = std::move(status);
  finish.usage = sequence->usage;
  finish.usage.output_tokens = sequence->num_output_tokens();
  finish.usage.kv_max_unused_tokens = sequence->max_unused_tokens;
  finish.usage.kv_reserved_bytes =
      uint64_t{sequence->table.num_blocks()} * kv_.block_size() * options_.kv_bytes_per_token;
  finish.usage.kv_used_bytes = sequence->num_planned * options_.kv_bytes_per_token;
  const bool planned = sequence->first_planned_at >= 0;
  finish.timings.queued = (planned ? sequence->first_planned_at : now) - sequence->arrived_at;
  if (sequence->first_token_at >= 0) {
    finish.timings.prefill = sequence->first_token_at - sequence->first_planned_at;
    finish.timings.decode = sequence->last_token_at - sequence->first_token_at;
  }
  events->finishes.push_back(std::move(finish));

  if (sequence->state == ScheduledSequence::State::kRunning) {
    const auto at = std::lower_bound(running_.begin(), running_.end(), sequence, ServedBefore());
    QUIRE_CHECK(at != running_.end() && *at == sequence);
    running_.erase(at);
    LeaveSlot(sequence);
  }
  waiting_.Leave(sequence);
  Unlink(sequence);
  blocked_head_ = nullptr;
  sequence->state = ScheduledSequence::State::kFinished;
  std::unique_ptr<ScheduledSequence> owned = std::move(sequences_[sequence->spec.tag]);
  if (owned->num_in_flight > 0) lingering_.push_back(std::move(owned));
}

void BatchScheduler::LeaveSlot(ScheduledSequence* sequence) {
  kv_.Release(&sequence->table);
  blocked_head_ = nullptr;
  used_tokens_ -= sequence->num_planned;
  // A slot that the device never heard of is not reported as freed.
  if (sequence->filled) freed_slots_.push_back(sequence->slot);
  free_slots_.push_back(sequence->slot);
  sequence->num_planned = sequence->num_computed = 0;
  sequence->filled = false;
}

void BatchScheduler::Unlink(ScheduledSequence* sequence) {
  if (sequence->prompt_source != nullptr) {
    std::erase(sequence->prompt_source->prompt_dependents, sequence);
  }
  for (ScheduledSequence* dependent : sequence->prompt_dependents)
    dependent->prompt_source = nullptr;
  sequence->prompt_dependents.clear();
  sequence->prompt_source = nullptr;
}

SchedulerLoad BatchScheduler::load() const {
  SchedulerLoad load;
  load.running = static_cast<uint32_t>(running_.size());
  load.waiting = waiting_.size();
  load.blocks_free = kv_.pool().num_free();
  load.blocks_cached = kv_.pool().num_cached();
  load.blocks_total = kv_.pool().num_blocks();
  load.kv_reserved_bytes =
      uint64_t{kv_.pool().num_leased()} * kv_.block_size() * options_.kv_bytes_per_token;
  load.kv_used_bytes = used_tokens_ * options_.kv_bytes_per_token;
  load.preemptions = num_preemptions_;
  load.prefix_query_tokens = prefix_query_tokens_;
  load.prefix_hit_tokens = prefix_hit_tokens_;
  return load;
}

}  // namespace quire
