#ifndef QUIRE_WORKER_DEVICE_CPU_CPU_EXECUTOR_H_
#define QUIRE_WORKER_DEVICE_CPU_CPU_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/batch/step_plan.h"
#include "worker/device/cpu/cpu_model.h"
#include "worker/device/cpu/cpu_rank_group.h"
#include "worker/device/cpu/gemm/isa.h"
#include "worker/device/cpu/gemm/thread_pool.h"
#include "worker/device/cpu/kv_store.h"
#include "worker/device/cpu/sampler.h"
#include "worker/device/cpu/slot_table.h"
#include "worker/engine/model_executor.h"
#include "worker/model/model_shard.h"
#include "worker/model/numerics_id.h"
#include "worker/model/weights.h"

namespace quire {

struct CpuExecutorOptions {
  int num_threads = 1;
  uint32_t num_slots = 256;
  uint32_t max_num_batched_tokens = 2048;  // at least num_slots, so that every slot can decode
  uint32_t context_length = 0;             // 0: the model's max_position_embeddings
  uint32_t block_size = 16;                // tokens: 8 or a multiple of 16
  // The KV cache's size: num_blocks, or where that is 0 as many blocks as fit kv_cache_bytes, which
  // are those of all ranks.
  uint32_t num_blocks = 0;
  uint64_t kv_cache_bytes = 0;
  std::optional<Isa> isa;  // empty: the fastest that passes the self-test
  // The rank that this is. Of several, `group` is theirs and outlives the executor; all have the
  // same options but for the rank, and the same plans at the same time (RankGroupExecutor).
  TensorShard shard;
  CpuRankGroup* group = nullptr;
};

// Carries out step plans on the CPU with kernels of its own: a decoder of the Llama family over a
// paged KV cache, in the dtype of the weights (fp32 or bf16).
//
// Exactness (docs/numerics.md): logits of a sequence at a position depend on its tokens alone,
// bitwise, not on what else runs, its slot and blocks, how its positions were cut into runs, the
// threads or the instruction set (E1, E2); a sampled token depends on logits, parameters and
// position alone (E4, sampler.h).
//
// A step runs within Launch; Collect hands out its result. One parallel region a step. Memory is
// taken at Create; a step allocates nothing but what slots and results hold. A row whose numbers
// are not finite fails its run alone: SlotOutput.fault names the stage, and the run brings no
// token. Not thread safe, as ModelExecutor says.
class CpuExecutor : public ModelExecutor {
 public:
  // INVALID_ARGUMENT names the option; RESOURCE_EXHAUSTED the memory that could not be had;
  // UNIMPLEMENTED weights that are neither fp32 nor bf16.
  static absl::StatusOr<std::unique_ptr<CpuExecutor>> Create(
      const CpuExecutorOptions& options, std::shared_ptr<const Weights> weights);

  const ExecutorLimits& limits() const override { return limits_; }
  absl::Status Launch(const StepPlan& plan) override;
  absl::Status Collect(StepResult* result) override;

  // The path in use. Not a part of numerics: all give the same bits.
  Isa isa() const { return isa_; }
  // What this executor adds to ModelNumericsParts.
  NumericsParts numerics_parts() const;
  // Bytes of weights that a decode step reads.
  uint64_t weight_bytes() const { return model_->weight_bytes(); }

  // For tests. The observer sees the raw logits, [vocabulary], of every row that has any, after the
  // step, on the calling thread; keeping them costs a copy a row.
  using LogitsObserver = std::function<void(SlotId slot, uint32_t position, const float* logits)>;
  void set_logits_observer(LogitsObserver observer) { observer_ = std::move(observer); }
  KvStore& kv_store_for_test() { return kv_; }

 private:
  // One row of logits: what becomes of it and what became of it.
  struct LogitsRow {
    uint32_t run = 0;
    uint32_t position = 0;
    bool samples = false;
    std::optional<TokenId> prompt_token;  // whose log-probability is asked for
    // Results, written by the thread that gets the row.
    bool finite = false;
    TokenId token = 0;
    TokenLogprobs sampled_logprobs;
    TokenLogprobs prompt_logprobs;
  };

  CpuExecutor(const CpuExecutorOptions& options, const ExecutorLimits& limits, Isa isa,
              std::unique_ptr<ThreadPool> pool, std::unique_ptr<CpuModel> model, KvStore kv);

  void BuildBatch(const StepPlan& plan);
  void TakeLogits(int thread, uint32_t index, const float* logits);
  void BuildResult(const StepPlan& plan);
  NumericFault RunFault(uint32_t run) const;
  void AddLogprobs(uint32_t output, std::span<LogitsRow> rows);

  const ExecutorLimits limits_;
  const Isa isa_;
  CpuRankGroup* const group_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<CpuModel> model_;
  KvStore kv_;
  std::vector<Sampler> samplers_;  // one a thread
  SlotTable slots_;

  // The current step.
  ForwardBatch batch_;
  std::vector<SlotRun> runs_;
  std::vector<LogitsRow> logits_rows_;
  std::vector<std::vector<float>> observed_;  // with an observer: one row's logits each
  StepResult result_;
  bool has_result_ = false;
  LogitsObserver observer_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_CPU_EXECUTOR_H_
