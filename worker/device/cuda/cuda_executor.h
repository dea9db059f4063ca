#ifndef QUIRE_WORKER_DEVICE_CUDA_CUDA_EXECUTOR_H_
#define QUIRE_WORKER_DEVICE_CUDA_CUDA_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "scheduler/batch/step_plan.h"
#include "worker/device/cuda/cuda_model.h"
#include "worker/device/cuda/cuda_rank_group.h"
#include "worker/device/cuda/cuda_slots.h"
#include "worker/device/cuda/device_memory.h"
#include "worker/device/cuda/step_builder.h"
#include "worker/device/cuda/step_inputs.h"
#include "worker/device/cuda/step_results.h"
#include "worker/engine/model_executor.h"
#include "worker/model/model_shard.h"
#include "worker/model/numerics_id.h"
#include "worker/model/weights.h"

namespace quire {

struct CudaExecutorOptions {
  int device = 0;
  uint32_t num_slots = 256;
  uint32_t max_num_batched_tokens = 8192;  // at least num_slots, so that every slot can decode
  uint32_t context_length = 0;             // 0: the model's max_position_embeddings
  uint32_t block_size = 16;                // tokens: a multiple of 16 that divides 128
  // The KV pool's size: num_blocks; where that is 0, as many blocks as fit kv_cache_bytes, which
  // are those of all ranks; where that is 0, what gpu_memory_utilization of the device's memory
  // leaves.
  uint32_t num_blocks = 0;
  uint64_t kv_cache_bytes = 0;
  double gpu_memory_utilization = 0.9;
  // Replays decoding steps as captured graphs. Off: every kernel is launched by itself; for tests.
  bool use_graphs = true;
  // The rank that this is. Of several, `group` is theirs and outlives the executor; all have the
  // same options but for rank and device, and the same plans (RankGroupExecutor, cuda_ranks.h).
  TensorShard shard;
  CudaRankGroup* group = nullptr;
  // Off gives up E1 and E2: matrix products and attention are then as fast as they can be if a
  // row's bits may depend on its company. For benchmarks, in bf16 alone; no worker offers it.
  bool exact = true;
};

// What the device's memory holds, in bytes.
struct CudaMemoryAccount {
  uint64_t total = 0;
  uint64_t weights = 0;
  uint64_t kv_pool = 0;
  uint64_t scratch = 0;  // activations, logits, workspaces
  uint64_t graphs = 0;
  uint64_t free = 0;
};

// Carries out step plans on one NVIDIA GPU: a decoder of the Llama family over a paged KV cache, in
// the dtype of the weights (bf16 or fp32).
//
// Exactness (docs/numerics.md): as CpuExecutor's, E1, E2 and E4.
//
// Two steps may be in flight: Launch enqueues copies and kernels and returns; Collect waits for the
// oldest step's results. Sampled tokens stay in the slots on the device, so the next step can be
// launched before the host knows them. A step in which every run has one token is the replay of a
// graph that was captured at Create. Memory is taken at Create. Not thread safe, as ModelExecutor
// says, but Create and the calls may come from different threads.
class CudaExecutor : public ModelExecutor {
 public:
  // INVALID_ARGUMENT names the option; FAILED_PRECONDITION says what the machine lacks;
  // RESOURCE_EXHAUSTED the memory that could not be had, with the account; UNIMPLEMENTED the dtype
  // or shape. `progress` hears a line for each stage of the start.
  using Progress = std::function<void(const std::string& line)>;
  static absl::StatusOr<std::unique_ptr<CudaExecutor>> Create(const CudaExecutorOptions& options,
                                                              const Weights& weights,
                                                              const Progress& progress);
  ~CudaExecutor() override;

  const ExecutorLimits& limits() const override { return limits_; }
  absl::Status Launch(const StepPlan& plan) override;
  absl::Status Collect(StepResult* result) override;

  // What this executor adds to ModelNumericsParts.
  NumericsParts numerics_parts() const;
  const CudaMemoryAccount& memory() const { return memory_; }
  const std::string& device_name() const { return device_name_; }

  // For tests. The observer sees the raw logits, [vocabulary], of every row that has any, within
  // Launch, which then waits for the device.
  using LogitsObserver = std::function<void(SlotId slot, uint32_t position, const float* logits)>;
  void set_logits_observer(LogitsObserver observer) { observer_ = std::move(observer); }
  // For tests: every element of the block becomes a NaN, in all layers.
  void FillWithNanForTest(BlockId block);

 private:
  struct StepGraph {
    uint32_t num_rows = 0;
    cuda::Graph graph;
  };

  CudaExecutor(const CudaExecutorOptions& options, const ModelConfig& config, DType dtype);
  absl::Status Start(const Weights& weights, const Progress& progress);
  absl::Status MakeModel(const Weights& weights);
  absl::Status AllocateSteps();
  absl::StatusOr<uint32_t> NumBlocks();
  // Where the ranks wait for each other. An error: that of any of them.
  absl::Status MeetRanks();
  // What is known of an error that a step met.
  absl::Status StepError(cudaError_t error, absl::string_view what) const;
  absl::Status CaptureGraphs(const Progress& progress);
  absl::StatusOr<cuda::Graph> Capture(uint32_t num_rows);

  // The graph that replays the step being built; null: its kernels are launched one by one.
  const StepGraph* FindGraph() const;
  absl::StatusOr<cuda::DeviceStepInputs> UploadInputs();
  absl::Status EnqueueRows(const cuda::DeviceStepInputs& at, const StepGraph* graph,
                           const cuda::PendingStep& pending);
  absl::Status EnqueueSampling(const cuda::DeviceStepInputs& at, uint32_t first, uint32_t count,
                               const cuda::PendingStep& pending);
  absl::Status ShowLogits(const cuda::StepRecord& record, uint32_t first, uint32_t count);
  cuda::ForwardBatch BatchAt(const cuda::DeviceStepInputs& at) const;

  const CudaExecutorOptions options_;
  const ModelConfig config_;
  const DType dtype_;
  ExecutorLimits limits_;
  std::string device_name_;
  CudaMemoryAccount memory_;
  uint32_t max_parts_ = 0;

  cuda::Stream stream_;
  std::unique_ptr<cuda::CudaModel> model_;
  cuda::CudaSlots slots_;
  std::vector<StepGraph> graphs_;  // ascending rows

  std::unique_ptr<cuda::StepBuilder> builder_;
  cuda::StepUploader uploader_;
  std::vector<cuda::PendingStep> pending_;  // a ring
  uint32_t first_pending_ = 0;
  uint32_t num_pending_ = 0;
  LogitsObserver observer_;
  std::vector<float> observed_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CUDA_CUDA_EXECUTOR_H_
