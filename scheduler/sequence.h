#ifndef QUIRE_SCHEDULER_SEQUENCE_H_
#define QUIRE_SCHEDULER_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/batch/step_plan.h"
#include "scheduler/sampling_params.h"

// One choice of one request, as the schedulers see it: what comes in (SequenceSpec) and what comes
// out (SequenceEvents). What a scheduler keeps in between is its own.
namespace quire {

// Microseconds of a steady clock; only differences mean anything.
using Micros = int64_t;

// The owner's name for a sequence; the scheduler only hands it back.
using SequenceTag = uint32_t;

struct SequenceSpec {
  SequenceTag tag = 0;
  // The prompt, then what earlier attempts emitted.
  std::vector<TokenId> tokens;
  uint32_t num_prompt_tokens = 0;
  uint32_t max_output_tokens = 0;  // emitted ones included
  std::shared_ptr<const SamplingParams> params;
  int32_t priority = 0;  // higher first
  std::string tenant;    // empty: none is named, which is a tenant too
  // Sequences share cached prefixes only under an equal salt.
  std::string cache_salt;
  std::optional<Micros> queue_deadline;
  // A living sequence with the same prompt, whose full prompt blocks this one shares: it waits
  // until they are computed.
  std::optional<SequenceTag> prompt_source;
};

enum class FinishReason : uint8_t { kStop, kLength, kAborted };

struct SequenceUsage {
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0;  // of the prompt, found in the prefix cache when it first ran
  uint32_t output_tokens = 0;
  uint32_t recomputed_tokens = 0;  // positions computed more than once
  uint64_t kv_reserved_bytes = 0;  // at the end
  uint64_t kv_used_bytes = 0;
  uint32_t kv_max_unused_tokens = 0;  // reserved minus used, the most at any step
};

struct SequenceTimings {
  Micros queued = 0;   // arrival to first plan
  Micros prefill = 0;  // first plan to first token
  Micros decode = 0;   // first to last token
};

// What happened to sequences, in order within each array; tokens of a sequence come before its
// finish.
struct SequenceEvents {
  struct Token {
    SequenceTag tag = 0;
    uint32_t index = 0;  // in the output, emitted ones counted
    TokenId token = 0;
  };
  struct Logprobs {
    SequenceTag tag = 0;
    uint32_t index = 0;                 // of output[0]
    std::vector<TokenLogprobs> output;  // for tokens of the same events
    std::vector<TokenLogprobs>
        prompt;  // once, with the first token: for the prompt after its first token
  };
  struct Finish {
    SequenceTag tag = 0;
    FinishReason reason = FinishReason::kStop;
    std::optional<TokenId> stop_token;
    absl::Status status;  // why, for kAborted
    SequenceUsage usage;
    SequenceTimings timings;
  };
  std::vector<Token> tokens;
  std::vector<Logprobs> logprobs;
  std::vector<Finish> finishes;
  std::vector<SequenceTag> preempted;

  void Clear() {
    tokens.clear();
    logprobs.clear();
    finishes.clear();
    preempted.clear();
  }
};

struct SchedulerLoad {
  uint32_t running = 0;  // sequences
  uint32_t waiting = 0;
  uint32_t blocks_free = 0;
  uint32_t blocks_cached = 0;
  uint32_t blocks_total = 0;
  uint64_t kv_reserved_bytes = 0;
  uint64_t kv_used_bytes = 0;
  uint64_t preemptions = 0;          // ever
  uint64_t prefix_query_tokens = 0;  // ever: tokens looked up in the prefix cache
  uint64_t prefix_hit_tokens = 0;    // ever: and found
};

// Decides what runs in the next step. Pure: no clock, no thread, no randomness; `now` is an
// argument and every decision is in the plan or in the events.
class SequenceScheduler {
 public:
  virtual ~SequenceScheduler() = default;

  // Queues a sequence. RESOURCE_EXHAUSTED: the queue is full (never for a sequence with a
  // prompt_source, whose request was let in already). FAILED_PRECONDITION: it could never fit.
  // REQUIRES: no living sequence has this tag; tokens hold the prompt; what is emitted does not end
  // the sequence already.
  virtual absl::Status Add(SequenceSpec spec, Micros now) = 0;

  // Ends a sequence with an event of reason kAborted and this status. With `output_tokens`, only so
  // many tokens count in its usage. REQUIRES: it lives, and its finish has not been reported.
  virtual void Abort(SequenceTag tag, absl::Status status, std::optional<uint32_t> output_tokens,
                     Micros now, SequenceEvents* events) = 0;

  // Replaces `plan` by the next step; false: nothing runs now, and if every planned step is
  // settled, nothing waits either. Adds queue timeouts and preemptions to `events`.
  virtual bool Plan(Micros now, StepPlan* plan, SequenceEvents* events) = 0;

  // Takes in the result of the oldest planned step that is not settled.
  virtual void Settle(StepResult& result, Micros now, SequenceEvents* events) = 0;

  virtual SchedulerLoad load() const = 0;
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_SEQUENCE_H_
