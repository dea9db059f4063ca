#ifndef QUIRE_WORKER_DEVICE_CPU_SLOT_TABLE_H_
#define QUIRE_WORKER_DEVICE_CPU_SLOT_TABLE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "scheduler/batch/step_plan.h"
#include "worker/device/cpu/token_counts.h"

namespace quire {

// One sequence of the running batch, as the plans made it.
struct Slot {
  bool taken = false;
  std::vector<TokenId> tokens;  // prompt, then output; position i is tokens[i]
  uint32_t num_prompt_tokens = 0;
  uint32_t next_position = 0;  // the first whose keys and values are not in the cache
  std::vector<BlockId> blocks;
  std::shared_ptr<const SamplingParams> params;
  TokenCounts counts;  // kept up with penalties alone

  uint32_t num_output_tokens() const {
    return static_cast<uint32_t>(tokens.size()) - num_prompt_tokens;
  }
};

// The slots of an executor. Plans are the scheduler's own work, so what breaks a rule of
// step_plan.h ends the process. Not thread safe.
class SlotTable {
 public:
  struct Bounds {
    uint32_t num_slots = 0;
    uint32_t context_length = 0;
    uint32_t vocabulary_size = 0;
    uint32_t block_size = 0;  // tokens; 0: the slots hold no blocks
    uint32_t num_blocks = 0;
  };
  explicit SlotTable(const Bounds& bounds);

  // Carries out freed, filled and appended, in this order.
  void Apply(const StepPlan& plan);

  const Slot& at(SlotId slot) const;

  // The run was computed: the slot moves past it. REQUIRES: Covers(run).
  void Advance(const SlotRun& run);
  // The slot's next known token.
  void Append(SlotId slot, TokenId token);

  // Whether the slot knows the run's tokens and, if it pages, holds their blocks.
  bool Covers(const SlotRun& run) const;

 private:
  void Fill(const SlotFill& fill);

  const Bounds bounds_;
  std::vector<Slot> slots_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_SLOT_TABLE_H_
