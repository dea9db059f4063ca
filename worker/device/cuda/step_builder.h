#ifndef QUIRE_WORKER_DEVICE_CUDA_STEP_BUILDER_H_
#define QUIRE_WORKER_DEVICE_CUDA_STEP_BUILDER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "scheduler/batch/step_plan.h"
#include "worker/device/cuda/kernels/sampling.h"
#include "worker/device/cuda/step_inputs.h"

namespace quire::cuda {

// What the host remembers of a launched step until its results are there.
struct StepRecord {
  // A row of logits.
  struct Row {
    uint32_t position = 0;
    bool samples = false;
    bool predicts_prompt = false;
  };
  struct Run {
    SlotId slot = 0;
    uint32_t first_row = 0;
    uint32_t num_rows = 0;
    uint32_t first_logits = 0;  // into `rows`
    uint32_t num_logits = 0;
    std::shared_ptr<const SamplingParams> params;
  };

  uint64_t step = 0;
  std::vector<Run> runs;
  std::vector<Row> rows;
  uint32_t num_rows = 0;  // computed, padding not counted
  // Some row has no logits, which would tell of its fault.
  bool needs_faults = false;

  void Clear();
};

// Turns step plans into what the device is told. Knows of each slot what the host can know: tokens
// that were sampled since it was filled are counted here and known to the device alone, so a step
// can be built before the results of the one before are there. No CUDA calls. Plans are the
// scheduler's own work, so what breaks a rule of step_plan.h ends the process.
class StepBuilder {
 public:
  struct Options {
    uint32_t num_slots = 0;
    uint32_t max_num_batched_tokens = 0;
    uint32_t context_length = 0;
    uint32_t block_size = 0;
    uint32_t num_blocks = 0;
    uint32_t num_heads = 0;
    uint32_t num_kv_heads = 0;
    // Thread blocks with which decode attention fills the device; see AddDecodeItems.
    uint32_t attention_blocks = 0;
    // Decode items that share rows, at most.
    uint32_t max_parts = 0;
    // AttentionArgs::exact.
    bool exact = true;
  };
  explicit StepBuilder(const Options& options);

  // Entries of a slot's block table.
  uint32_t table_stride() const { return table_stride_; }
  // Of a step's inputs, at most.
  size_t max_input_bytes() const;

  // Replaces inputs() and `record`. Where changes to slots are too many for one upload, calls
  // `flush` in between, which must carry out the changes in inputs() before it returns.
  absl::Status Build(const StepPlan& plan, absl::FunctionRef<absl::Status()> flush,
                     StepRecord* record);

  StepInputs& inputs() { return inputs_; }
  const StepInputs& inputs() const { return inputs_; }
  SamplingNeeds needs() const { return needs_; }
  // Every run has one token: the step may be the replay of a graph.
  bool is_decoding() const { return !decode_rows_.empty() && inputs_.prefill_tiles.empty(); }

 private:
  struct Slot {
    bool is_taken = false;
    std::vector<TokenId> tokens;  // those it was filled with
    uint32_t num_tokens = 0;      // with those sampled since
    uint32_t num_prompt_tokens = 0;
    uint32_t next_position = 0;
    uint32_t num_blocks = 0;
    std::shared_ptr<const SamplingParams> params;
  };

  void Fill(const SlotFill& fill);
  void AddSampling(const SlotFill& fill);
  void Append(const BlockAppend& append);
  void AddRun(const SlotRun& run, StepRecord* record);
  void AddLogitsRow(const Slot& slot, SlotId id, uint32_t position, bool samples,
                    StepRecord* record);
  void AddDecodeItems();

  const Options options_;
  const uint32_t table_stride_;
  std::vector<Slot> slots_;
  StepInputs inputs_;
  std::vector<uint32_t> decode_rows_;
  SamplingNeeds needs_;
};

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_STEP_BUILDER_H_
