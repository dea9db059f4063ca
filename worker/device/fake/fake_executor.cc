#include "worker/device/fake/fake_executor.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "scheduler/check.h"

namespace quire {
namespace {

constexpr uint64_t kEmptyHash = 0x9e3779b97f4a7c15u;

// The finalizer of MurmurHash3 (Appleby, public domain) over a sum.
uint64_t Extend(uint64_t hash, TokenId token) {
  uint64_t x = hash + 0x9e3779b97f4a7c15u * (uint64_t{token} + 1);
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdu;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53u;
  x ^= x >> 33;
  return x;
}

uint64_t Extend(uint64_t hash, const SamplingParams& params) {
  if (params.temperature <= 0) return hash;
  return Extend(Extend(Extend(hash, static_cast<TokenId>(params.seed >> 32)),
                       static_cast<TokenId>(params.seed)),
                params.choice);
}

TokenId ToToken(uint64_t hash, uint32_t vocabulary_size) {
  return static_cast<TokenId>((hash >> 16) % vocabulary_size);
}

}  // namespace

FakeExecutor::FakeExecutor(const Options& options)
    : options_(options),
      slots_(options.limits.num_slots),
      kv_(size_t{options.limits.num_blocks} * options.limits.block_size) {}

TokenId FakeExecutor::NextToken(std::span<const TokenId> tokens, uint32_t vocabulary_size) {
  uint64_t hash = kEmptyHash;
  for (const TokenId token : tokens) hash = Extend(hash, token);
  return ToToken(hash, vocabulary_size);
}

TokenId FakeExecutor::NextToken(std::span<const TokenId> tokens, const SamplingParams& params,
                                uint32_t vocabulary_size) {
  uint64_t hash = kEmptyHash;
  for (const TokenId token : tokens) hash = Extend(hash, token);
  return ToToken(Extend(hash, params), vocabulary_size);
}

FakeExecutor::KvEntry& FakeExecutor::Entry(Slot& slot, uint32_t position) {
  const uint32_t size = options_.limits.block_size;
  if (size == 0) {
    if (slot.own_kv.size() <= position) slot.own_kv.resize(position + 1);
    return slot.own_kv[position];
  }
  QUIRE_CHECK(position / size < slot.blocks.size());
  return kv_[size_t{slot.blocks[position / size]} * size + position % size];
}

TokenId FakeExecutor::Sample(Slot& slot) {
  const uint32_t length = slot.position;
  uint64_t hash = kEmptyHash;
  if (options_.reads_whole_context) {
    for (uint32_t position = 0; position < length; ++position) {
      const KvEntry& entry = Entry(slot, position);
      hash = Extend(hash, entry.position == position ? entry.token : ~TokenId{0});
    }
  } else {
    hash = Entry(slot, length - 1).prefix_hash;
  }
  if (options_.samples) hash = Extend(hash, *slot.params);
  return ToToken(hash, options_.limits.vocabulary_size);
}

void FakeExecutor::AddLogprobs(const Slot& slot, const SlotRun& run, StepResult* result) {
  if (slot.params == nullptr) return;
  StepResult::Logprobs logprobs;
  logprobs.output = static_cast<uint32_t>(result->outputs.size()) - 1;
  if (slot.params->prompt_logprobs.has_value()) {
    // Each position computed tells of the token after it.
    logprobs.first_prompt_position = slot.position - run.num_tokens + 1;
    const uint32_t end = std::min(slot.position + 1, slot.num_prompt_tokens);
    for (uint32_t i = logprobs.first_prompt_position; i < end; ++i) {
      logprobs.prompt.push_back({LogprobAt(i), {}});
    }
  }
  if (slot.params->logprobs.has_value() && run.samples) {
    logprobs.tokens.push_back({LogprobAt(slot.position), {}});
  }
  if (!logprobs.prompt.empty() || !logprobs.tokens.empty()) {
    result->logprobs.push_back(std::move(logprobs));
  }
}

absl::Status FakeExecutor::Launch(const StepPlan& plan) {
  for (const SlotId slot : plan.freed) {
    QUIRE_CHECK(slots_[slot].occupied);
    slots_[slot].occupied = false;
  }
  for (const SlotFill& fill : plan.filled) {
    Slot& slot = slots_[fill.slot];
    QUIRE_CHECK(!slot.occupied);
    slot.occupied = true;
    slot.tokens = fill.tokens;
    slot.num_prompt_tokens = fill.num_prompt_tokens;
    slot.params = fill.params;
    slot.position = fill.num_cached_tokens;
    slot.blocks = fill.blocks;
    slot.own_kv.clear();
  }
  for (const BlockAppend& append : plan.appended)
    slots_[append.slot].blocks.push_back(append.block);

  Step step;
  step.result.step = plan.step;
  uint32_t num_tokens = 0;
  for (const SlotRun& run : plan.runs) {
    Slot& slot = slots_[run.slot];
    QUIRE_CHECK(slot.occupied && slot.position + run.num_tokens <= slot.tokens.size());
    SlotOutput output;
    output.slot = run.slot;
    output.first_token = static_cast<uint32_t>(step.result.tokens.size());
    if (options_.inject_fault) output.fault = options_.inject_fault(run.slot, slot.position);
    for (uint32_t i = 0; i < run.num_tokens; ++i, ++slot.position) {
      const uint64_t before =
          slot.position == 0 ? kEmptyHash : Entry(slot, slot.position - 1).prefix_hash;
      const TokenId token = slot.tokens[slot.position];
      Entry(slot, slot.position) = {Extend(before, token), token, slot.position};
    }
    if (run.samples) {
      QUIRE_CHECK(slot.position == slot.tokens.size());
      slot.tokens.push_back(Sample(slot));
      step.result.tokens.push_back(slot.tokens.back());
      output.num_tokens = 1;
    }
    num_tokens += run.num_tokens;
    step.result.outputs.push_back(output);
    AddLogprobs(slot, run, &step.result);
  }
  QUIRE_CHECK(num_tokens == plan.num_tokens &&
              num_tokens <= options_.limits.max_num_batched_tokens);
  if (options_.limits.block_size == 0) {
    for (const Slot& slot : slots_) {
      if (slot.occupied) step.result.kv.used += slot.position * options_.limits.kv_bytes_per_token;
    }
    step.result.kv.reserved = step.result.kv.used;
  }
  step.ready_at = std::chrono::steady_clock::now() + options_.step_time;
  steps_.push_back(std::move(step));
  QUIRE_CHECK(steps_.size() <= options_.limits.max_steps_in_flight);
  return absl::OkStatus();
}

absl::Status FakeExecutor::Collect(StepResult* result) {
  QUIRE_CHECK(!steps_.empty());
  // The simulated device is at work until then.
  if (options_.step_time.count() > 0) std::this_thread::sleep_until(steps_.front().ready_at);
  *result = std::move(steps_.front().result);
  steps_.pop_front();
  return absl::OkStatus();
}

}  // namespace quire
