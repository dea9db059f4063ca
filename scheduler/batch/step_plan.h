#ifndef QUIRE_SCHEDULER_BATCH_STEP_PLAN_H_
#define QUIRE_SCHEDULER_BATCH_STEP_PLAN_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "scheduler/sampling_params.h"

// The border between deciding and executing, as data: the scheduler writes a StepPlan, the device
// carries it out and answers with a StepResult.
//
// The device keeps the running batch in slots. A slot holds one sequence: its token ids, the
// position of the next token to compute, its block table and its sampling parameters. Plans carry
// changes to slots and say which slots run; there is no prefill phase and no decode phase, only
// runs of positions.
namespace quire {

using BlockId = uint32_t;
using SlotId = uint32_t;

// A sequence takes a slot.
struct SlotFill {
  SlotId slot = 0;
  // Every token known so far: the prompt, then what was emitted. Position i of the sequence is
  // tokens[i].
  std::vector<TokenId> tokens;
  uint32_t num_prompt_tokens = 0;
  // First position to compute: the KV of those before it is in `blocks` already.
  uint32_t num_cached_tokens = 0;
  // Block table so far. Block i holds positions [i * block_size, (i + 1) * block_size). Empty for
  // engines that do not page.
  std::vector<BlockId> blocks;
  // Outlives the slot's stay.
  std::shared_ptr<const SamplingParams> params;
};

// The slot's block table grows by one.
struct BlockAppend {
  SlotId slot = 0;
  BlockId block = 0;
};

// The slot computes its next `num_tokens` positions. Their blocks are in its table.
struct SlotRun {
  SlotId slot = 0;
  uint32_t num_tokens = 0;
  // The last of them gives logits, from which the next token is sampled; the sample becomes the
  // slot's next known token. False for a part of a prompt that is not the last.
  bool samples = false;
};

// Applied in the order of the members. Slots keep their order of runs from step to step where they
// can.
struct StepPlan {
  uint64_t step = 0;  // counts from 1
  std::vector<SlotId> freed;
  std::vector<SlotFill> filled;
  std::vector<BlockAppend> appended;
  std::vector<SlotRun> runs;
  uint32_t num_tokens = 0;  // sum over runs

  void Clear() {
    freed.clear();
    filled.clear();
    appended.clear();
    runs.clear();
    num_tokens = 0;
  }
};

// Where numbers stopped being finite.
enum class NumericFault : uint8_t { kNone, kEmbedding, kAttention, kMlp, kLogits };

struct TopLogprob {
  TokenId token = 0;
  float logprob = 0;
};

// Log-probabilities of one token: its own, and the most likely ones, most likely first (ties: lower
// id).
struct TokenLogprobs {
  float logprob = 0;
  std::vector<TopLogprob> top;
};

// What one run brought. A run that does not sample brings no token.
struct SlotOutput {
  SlotId slot = 0;
  uint32_t first_token = 0;  // into StepResult::tokens
  uint32_t num_tokens = 0;
  NumericFault fault = NumericFault::kNone;  // not kNone: the tokens mean nothing
};

// KV memory that an executor holds itself; paged engines count their blocks instead.
struct KvBytes {
  uint64_t reserved = 0;
  uint64_t used = 0;
};

struct StepResult {
  uint64_t step = 0;
  std::vector<SlotOutput> outputs;  // one for each run, in the order of the plan's runs
  std::vector<TokenId> tokens;
  // For the slots that asked. Entry: (index into outputs, values for that output's tokens).
  struct Logprobs {
    uint32_t output = 0;
    std::vector<TokenLogprobs> tokens;  // one a sampled token
    // For the prompt positions of this run: entry i belongs to the prompt token at position
    // first_prompt_position + i.
    uint32_t first_prompt_position = 0;
    std::vector<TokenLogprobs> prompt;
  };
  std::vector<Logprobs> logprobs;  // in the order of outputs
  KvBytes kv;                      // after the step

  void Clear() {
    outputs.clear();
    tokens.clear();
    logprobs.clear();
  }
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_BATCH_STEP_PLAN_H_
