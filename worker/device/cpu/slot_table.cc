#include "worker/device/cpu/slot_table.h"

#include "scheduler/check.h"

namespace quire {
namespace {

bool NeedsCounts(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

}  // namespace

SlotTable::SlotTable(const Bounds& bounds) : bounds_(bounds), slots_(bounds.num_slots) {}

const Slot& SlotTable::at(SlotId slot) const {
  QUIRE_CHECK(slot < slots_.size() && slots_[slot].taken);
  return slots_[slot];
}

void SlotTable::Apply(const StepPlan& plan) {
  for (const SlotId freed : plan.freed) {
    QUIRE_CHECK(freed < slots_.size() && slots_[freed].taken);
    slots_[freed].taken = false;
    slots_[freed].params.reset();
  }
  for (const SlotFill& fill : plan.filled) Fill(fill);
  for (const BlockAppend& append : plan.appended) {
    QUIRE_CHECK(append.slot < slots_.size() && slots_[append.slot].taken);
    QUIRE_CHECK(append.block < bounds_.num_blocks);
    slots_[append.slot].blocks.push_back(append.block);
  }
}

void SlotTable::Fill(const SlotFill& fill) {
  QUIRE_CHECK(fill.slot < slots_.size() && !slots_[fill.slot].taken);
  QUIRE_CHECK(fill.params != nullptr);
  QUIRE_CHECK(fill.tokens.size() <= bounds_.context_length);
  QUIRE_CHECK(fill.num_prompt_tokens <= fill.tokens.size());
  QUIRE_CHECK(fill.num_cached_tokens < fill.tokens.size());
  for (const TokenId token : fill.tokens) QUIRE_CHECK(token < bounds_.vocabulary_size);
  for (const BlockId block : fill.blocks) QUIRE_CHECK(block < bounds_.num_blocks);

  Slot& slot = slots_[fill.slot];
  slot.taken = true;
  slot.tokens.assign(fill.tokens.begin(), fill.tokens.end());
  slot.num_prompt_tokens = fill.num_prompt_tokens;
  slot.next_position = fill.num_cached_tokens;
  slot.blocks.assign(fill.blocks.begin(), fill.blocks.end());
  slot.params = fill.params;
  slot.counts.Clear();
  if (!NeedsCounts(*fill.params)) return;
  for (uint32_t i = 0; i < fill.tokens.size(); ++i) {
    if (i < fill.num_prompt_tokens) {
      slot.counts.AddPrompt(fill.tokens[i]);
    } else {
      slot.counts.AddOutput(fill.tokens[i]);
    }
  }
}

bool SlotTable::Covers(const SlotRun& run) const {
  const Slot& slot = at(run.slot);
  const uint64_t end = uint64_t{slot.next_position} + run.num_tokens;
  if (run.num_tokens == 0 || end > slot.tokens.size()) return false;
  const bool pages = bounds_.block_size > 0;
  if (pages && end > slot.blocks.size() * uint64_t{bounds_.block_size}) return false;
  // A sample follows the last known token.
  return !run.samples || end == slot.tokens.size();
}

void SlotTable::Advance(const SlotRun& run) {
  QUIRE_CHECK(Covers(run));
  slots_[run.slot].next_position += run.num_tokens;
}

void SlotTable::Append(SlotId slot, TokenId token) {
  QUIRE_CHECK(slot < slots_.size() && slots_[slot].taken);
  slots_[slot].tokens.push_back(token);
  if (NeedsCounts(*slots_[slot].params)) slots_[slot].counts.AddOutput(token);
}

}  // namespace quire
