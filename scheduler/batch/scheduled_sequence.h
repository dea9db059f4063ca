#ifndef QUIRE_SCHEDULER_BATCH_SCHEDULED_SEQUENCE_H_
#define QUIRE_SCHEDULER_BATCH_SCHEDULED_SEQUENCE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/batch/fair_share.h"
#include "scheduler/kv/kv_manager.h"
#include "scheduler/sequence.h"

namespace quire {

// What BatchScheduler keeps of a living sequence. Positions count from 0; tokens()[i] is at
// position i.
//
//   tokens()    known: prompt, emitted, and what was sampled and settled
//   num_planned positions that launched steps have computed or will compute
//   num_computed of them, those whose step has settled: num_computed <= num_planned
//
// A step may be planned before the tokens of the one before are known, so expected_tokens() counts
// samples in flight as well; what is left to run is expected_tokens() - num_planned.
struct ScheduledSequence {
  enum class State : uint8_t { kWaiting, kRunning, kFinished };

  SequenceSpec spec;  // its tokens grow

  // What every step reads and writes lies together: with hundreds of sequences running, planning
  // takes as long as these lines take to come in.
  alignas(64) State state = State::kWaiting;
  bool filled = false;  // the slot's SlotFill has been written
  SlotId slot = 0;
  // Counts the times it was given a slot: the KV of an earlier stay is gone, its samples are good.
  uint32_t stay = 0;
  uint32_t num_blocks_sent = 0;  // of the table, to the device
  uint32_t num_planned = 0;
  uint32_t num_computed = 0;
  uint32_t num_in_flight = 0;  // launched steps with a run of it
  uint32_t num_samples_in_flight = 0;
  uint32_t next_run = 0;           // positions in the plan being made; 0 between plans
  uint32_t next_commit = 0;        // num_computed from which blocks can be committed
  uint32_t most_planned = 0;       // over all stays, and before it came here
  uint32_t max_unused_tokens = 0;  // reserved minus used, the most at any step
  Micros first_token_at = -1;
  Micros last_token_at = -1;
  std::span<const TokenId> stop_token_ids;  // of spec.params; sorted
  BlockTable table;
  FairShare::Account* account = nullptr;  // of its tenant; WaitingQueue sets it

  uint64_t arrival = 0;
  // When it would have come with priority 0, or -priority where priorities are strict: no wait
  // makes up for one.
  Micros rank = 0;
  bool was_let_in = false;  // it has run, though it may wait now
  // Choices after the first wait for the prompt of the first, and share its full blocks.
  ScheduledSequence* prompt_source = nullptr;
  std::vector<ScheduledSequence*> prompt_dependents;

  std::vector<TokenLogprobs> prompt_logprobs;
  bool prompt_logprobs_delivered = false;

  Micros arrived_at = 0;
  Micros first_planned_at = -1;
  SequenceUsage usage;

  const std::vector<TokenId>& tokens() const { return spec.tokens; }
  uint32_t num_tokens() const { return static_cast<uint32_t>(spec.tokens.size()); }
  uint32_t num_output_tokens() const { return num_tokens() - spec.num_prompt_tokens; }
  uint32_t expected_tokens() const { return num_tokens() + num_samples_in_flight; }
  // Positions that can be run now: none when the outputs in flight reach the limit.
  uint32_t num_runnable() const {
    if (num_output_tokens() + num_samples_in_flight >= spec.max_output_tokens) return 0;
    return expected_tokens() - num_planned;
  }
  // Full blocks that its prompt shares with other choices of the request. The prompt's last token
  // is always run: it gives the first logits.
  uint32_t num_prompt_blocks(uint32_t block_size) const {
    return (spec.num_prompt_tokens - 1) / block_size;
  }
};

// The order in which running sequences are served, and levels of priority let in: by rank, then by
// arrival, then by choice. Preemption takes from the end. The order of two sequences never changes,
// so the first can always go on. Tenants play no part: who is let in is fair (WaitingQueue), and
// what was let in is served alike.
struct ServedBefore {
  bool operator()(const ScheduledSequence* a, const ScheduledSequence* b) const {
    if (a->rank != b->rank) return a->rank < b->rank;
    return a->arrival < b->arrival;
  }
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_BATCH_SCHEDULED_SEQUENCE_H_
