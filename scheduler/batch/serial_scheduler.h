#ifndef QUIRE_SCHEDULER_BATCH_SERIAL_SCHEDULER_H_
#define QUIRE_SCHEDULER_BATCH_SERIAL_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "scheduler/sequence.h"

namespace quire {

// One sequence at a time, in order of arrival: the whole prompt in one step, then a token a step,
// as Hugging Face generate() does. No blocks: the executor keeps the KV cache of its one slot
// itself, and reports its bytes with each result. Priorities do not matter here.
class SerialScheduler final : public SequenceScheduler {
 public:
  // Add refuses beyond `max_queue` sequences behind the running one. `kv_bytes_per_token` is for
  // usage.
  explicit SerialScheduler(uint32_t max_queue, uint64_t kv_bytes_per_token = 1)
      : max_queue_(max_queue), kv_bytes_per_token_(kv_bytes_per_token) {}

  absl::Status Add(SequenceSpec spec, Micros now) override;
  void Abort(SequenceTag tag, absl::Status status, std::optional<uint32_t> output_tokens,
             Micros now, SequenceEvents* events) override;
  bool Plan(Micros now, StepPlan* plan, SequenceEvents* events) override;
  void Settle(StepResult& result, Micros now, SequenceEvents* events) override;
  SchedulerLoad load() const override;

 private:
  static constexpr SlotId kSlot = 0;

  struct Sequence {
    SequenceSpec spec;
    Micros arrived_at = 0;
    Micros first_planned_at = -1;
    Micros first_token_at = -1;
    Micros last_token_at = -1;
    uint32_t max_unused_tokens = 0;
    uint32_t num_output_tokens() const {
      return static_cast<uint32_t>(spec.tokens.size()) - spec.num_prompt_tokens;
    }
  };

  void Finish(const Sequence& sequence, FinishReason reason, std::optional<TokenId> stop_token,
              absl::Status status, Micros now, SequenceEvents* events);

  const uint32_t max_queue_;
  const uint64_t kv_bytes_per_token_;
  std::deque<Sequence> waiting_;
  std::optional<Sequence> running_;
  bool occupied_ = false;   // the device's slot holds a sequence
  bool in_flight_ = false;  // a step of running_, or of one that was aborted meanwhile
  bool aborted_ = false;    // the step in flight is of a sequence that is gone
  uint64_t next_step_ = 1;
  KvBytes kv_;  // as of the last result
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_BATCH_SERIAL_SCHEDULER_H_
