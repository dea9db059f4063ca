#ifndef QUIRE_SCHEDULER_BATCH_BATCH_SCHEDULER_H_
#define QUIRE_SCHEDULER_BATCH_BATCH_SCHEDULER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "scheduler/batch/scheduled_sequence.h"
#include "scheduler/batch/waiting_queue.h"
#include "scheduler/kv/kv_manager.h"
#include "scheduler/sequence.h"

namespace quire {

// Continuous batching over a block pool: this is where a batch is chosen (Plan).
//
// Each step has one budget of token positions. Running sequences that need one position (decodes)
// come first, then chunks of prompts that are under way, both in the order of ServedBefore; then
// waiting sequences while budget, slots and blocks last, in the order of WaitingQueue, which is
// fair to tenants. A sequence that finds no block preempts the last-served running one: its blocks
// go, its tokens stay, and it is computed again later. The first-served sequence can so always go
// on, and no set of prompts can lock the pool up.
//
// Steps may be planned while earlier ones run; results settle in order.
class BatchScheduler final : public SequenceScheduler {
 public:
  struct Options {
    KvManager::Options kv;
    uint32_t max_num_seqs = 0;            // slots
    uint32_t max_num_batched_tokens = 0;  // positions a step; at least max_num_seqs
    uint32_t max_queue = 0;               // sequences beyond the slots, above which Add refuses
    uint64_t kv_bytes_per_token = 0;      // for usage
    // A sequence goes before those that came up to this much earlier for each point that its
    // priority is higher, and so waits for no more than those. 0: priorities are strict, and a
    // higher one can keep a lower waiting for ever.
    Micros priority_aging = 0;
    TenantWeights weights;
  };
  explicit BatchScheduler(const Options& options);
  ~BatchScheduler() override;

  absl::Status Add(SequenceSpec spec, Micros now) override;
  void Abort(SequenceTag tag, absl::Status status, std::optional<uint32_t> output_tokens,
             Micros now, SequenceEvents* events) override;
  bool Plan(Micros now, StepPlan* plan, SequenceEvents* events) override;
  void Settle(StepResult& result, Micros now, SequenceEvents* events) override;
  SchedulerLoad load() const override;

  const BlockPool& pool() const { return kv_.pool(); }

 private:
  struct PlannedRun {
    ScheduledSequence* sequence;
    uint32_t stay;
    uint32_t num_tokens;
    bool samples;
  };
  struct PlannedStep {
    uint64_t step = 0;
    std::vector<PlannedRun> runs;
  };

  // Plan's parts.
  void ExpireWaiting(Micros now, SequenceEvents* events);
  // Whether a running sequence has more than one position to run.
  bool PlanDecodes(uint32_t* budget, SequenceEvents* events);
  void PlanPrompts(uint32_t* budget, SequenceEvents* events);
  void AdmitWaiting(uint32_t* budget, Micros now);
  void WritePlan(StepPlan* plan);

  // Gives a waiting sequence a slot, a cached prefix and its first run. False: no room for it now;
  // then blocked_head_ is set.
  bool Admit(ScheduledSequence* sequence, uint32_t budget, Micros now);
  bool WaitsForPrompt(const ScheduledSequence& sequence) const;
  // Whether Admit would find no room again, told without a walk along a long prefix.
  bool IsStillBlocked(const ScheduledSequence& sequence) const;
  Micros RankOf(const SequenceSpec& spec, Micros now) const;
  // Takes the last-served running sequence out of the batch; its planned run goes back to the
  // budget.
  void PreemptLast(uint32_t* budget, SequenceEvents* events);

  // Settle's parts.
  void SettleRun(const PlannedRun& run, const SlotOutput& output, const StepResult& result,
                 StepResult::Logprobs* logprobs, Micros now, SequenceEvents* events);
  void TakeToken(ScheduledSequence* sequence, TokenId token, StepResult::Logprobs* logprobs,
                 Micros now, SequenceEvents* events);
  void FinishIfDone(ScheduledSequence* sequence, Micros now, SequenceEvents* events);

  // Reports the end of a sequence and gives back all it holds.
  void Finish(ScheduledSequence* sequence, FinishReason reason, std::optional<TokenId> stop_token,
              absl::Status status, Micros now, SequenceEvents* events);
  void LeaveSlot(ScheduledSequence* sequence);
  void Unlink(ScheduledSequence* sequence);

  const Options options_;
  KvManager kv_;  // before the sequences, whose tables hold leases

  std::vector<std::unique_ptr<ScheduledSequence>> sequences_;  // by tag; null where none lives
  // Finished, but a launched step still names them.
  std::vector<std::unique_ptr<ScheduledSequence>> lingering_;

  WaitingQueue waiting_;
  // The one that found no room last, and where its cached prefix ended; null once blocks were given
  // back. Until then only a longer prefix can make it fit.
  const ScheduledSequence* blocked_head_ = nullptr;
  PrefixEnd blocked_prefix_;
  std::vector<ScheduledSequence*> running_;  // sorted by ServedBefore
  std::vector<SlotId> free_slots_;           // a stack
  std::vector<SlotId> freed_slots_;          // to be told to the device with the next plan

  std::deque<PlannedStep> in_flight_;
  std::vector<std::vector<PlannedRun>> spare_runs_;  // emptied, to save allocations
  uint64_t next_step_ = 1;
  uint64_t next_arrival_ = 0;
  uint64_t used_tokens_ = 0;  // positions planned by those running
  uint64_t num_preemptions_ = 0;
  uint64_t prefix_query_tokens_ = 0;
  uint64_t prefix_hit_tokens_ = 0;
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_BATCH_BATCH_SCHEDULER_H_
