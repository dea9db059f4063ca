#ifndef QUIRE_WORKER_DEVICE_CPU_CPU_MODEL_H_
#define QUIRE_WORKER_DEVICE_CPU_CPU_MODEL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "scheduler/batch/step_plan.h"
#include "worker/device/cpu/cpu_rank_group.h"
#include "worker/device/cpu/gemm/isa.h"
#include "worker/device/cpu/gemm/thread_pool.h"
#include "worker/device/cpu/kv_store.h"
#include "worker/model/model_shard.h"
#include "worker/model/weights.h"

namespace quire {

// Consecutive positions of one sequence.
struct ForwardRun {
  uint32_t first_row = 0;  // rows of a batch are the runs' positions, one run after the other
  uint32_t num_rows = 0;
  uint32_t first_position = 0;
  const TokenId* tokens = nullptr;  // [num_rows]
  const BlockId* blocks = nullptr;  // covers every position up to the last
};

struct ForwardBatch {
  std::vector<ForwardRun> runs;
  uint32_t num_rows = 0;
  std::vector<uint32_t> logits_rows;  // rows that need logits, each once, ascending

  void Clear() {
    runs.clear();
    num_rows = 0;
    logits_rows.clear();
  }
};

// A Llama-family decoder on the CPU: Llama 2 and 3.x, Mistral, Qwen2, Qwen3, as worker/model reads
// them, in fp32 or bf16.
//
// Holds the weights in the matrix products' layout and the scratch of a step. Every row's result
// depends on its sequence alone: the matrix products (gemm.h), the attention (attention_inl.h) and
// everything else (kernels.h) fix the order of each row's sums. In bf16 the results of linear
// layers, norms, both products and the sum of RoPE, the attention, SiLU, its product and residual
// sums are rounded, as Hugging Face's modules do; logits stay fp32.
class CpuModel {
 public:
  struct Options {
    Isa isa = Isa::kPortable;
    uint32_t max_rows = 0;        // of a batch
    uint32_t context_length = 0;  // positions are below it
    // The rank that this is. Of several, `group` is theirs and outlives the model.
    TensorShard shard;
    CpuRankGroup* group = nullptr;
  };

  // Packs the weights with the pool's threads. UNIMPLEMENTED: weights that are neither fp32 nor
  // bf16. RESOURCE_EXHAUSTED: memory.
  static absl::StatusOr<std::unique_ptr<CpuModel>> Create(const Options& options,
                                                          std::shared_ptr<const Weights> weights,
                                                          ThreadPool& pool);
  virtual ~CpuModel() = default;

  // Called with a row's logits, [vocabulary]; `index` counts the batch's logits rows. Calls for
  // different rows come from different threads at once; context.index() tells them apart.
  using LogitsSink =
      absl::FunctionRef<void(ThreadContext& context, uint32_t index, const float* logits)>;

  // Computes a batch: writes keys and values of all rows into `kv`, hands logits to `sink`. To be
  // called by all threads of a region with the same arguments, after one of them called Prepare
  // outside of it. Of a rank of several it is called by all of them, with the same batch; false:
  // their group was aborted, and the results mean nothing.
  virtual bool Forward(ThreadContext& context, const ForwardBatch& batch, const KvStore& kv,
                       LogitsSink sink) = 0;

  // REQUIRES: batch.num_rows <= max_rows.
  void Prepare(const ForwardBatch& batch);

  // Where the row's numbers first stopped being finite in the last batch. Rows that need no logits
  // don't take part in the last layer's MLP check. kLogits is the sink's to find.
  NumericFault fault(uint32_t row) const { return faults_[row]; }

  // Bytes of the packed weights that one decode step reads.
  virtual uint64_t weight_bytes() const = 0;

 protected:
  CpuModel(const Options& options, const ModelConfig& config);

  // Positions of one run that a tile of queries takes together.
  struct AttentionUnit {
    uint32_t run = 0;
    uint32_t first = 0;  // of the run's rows
    uint32_t count = 0;
  };

  const Options options_;
  const ModelConfig config_;
  const ShardSizes sizes_;       // this rank's outputs
  uint32_t heads_per_tile_ = 1;  // query heads of one KV head that share a tile
  uint32_t positions_per_tile_ = 1;
  std::vector<uint32_t> run_of_row_;
  std::vector<AttentionUnit> units_;
  std::vector<NumericFault> faults_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_CPU_MODEL_H_
