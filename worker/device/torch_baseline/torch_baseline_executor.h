#ifndef QUIRE_WORKER_DEVICE_TORCH_BASELINE_TORCH_BASELINE_EXECUTOR_H_
#define QUIRE_WORKER_DEVICE_TORCH_BASELINE_TORCH_BASELINE_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/batch/step_plan.h"
#include "worker/device/cpu/gemm/thread_pool.h"
#include "worker/device/cpu/sampler.h"
#include "worker/device/cpu/slot_table.h"
#include "worker/engine/model_executor.h"
#include "worker/model/numerics_id.h"
#include "worker/model/weights.h"

namespace at {
class Tensor;
}

namespace quire {

class TorchKvCache;
class TorchModel;

enum class BaselineCache : uint8_t {
  kDynamic,  // grows by concatenation
  kStatic,   // reserved at the maximum length up front
};

enum class BaselineDevice : uint8_t {
  kCpu,
  kCuda,  // the first GPU, through torch's CUDA library, which is loaded when it is first asked for
};

struct TorchBaselineOptions {
  BaselineDevice device = BaselineDevice::kCpu;
  BaselineCache cache = BaselineCache::kDynamic;
  uint32_t context_length = 0;  // tokens; 0: the model's max_position_embeddings
  uint32_t num_threads = 1;     // of torch's operators on the CPU: holds for the whole process
};

// What Hugging Face generate() does with one request, in C++: torch's own operators in the order,
// the dtype and with the roundings of its modules, a contiguous KV cache, one sequence at a time.
// The yardstick that the paged engine is measured against.
//
// One slot. A plan runs any number of its positions at once; SerialScheduler plans the whole
// prompt, then a token a step. The numbers are torch's: none of E1 and E2 is promised
// (docs/numerics.md). Tokens are chosen by the paged engine's sampler of the CPU, so greedy is the
// arg max and a seed means the same there and here. A run whose numbers are not finite brings no
// token; SlotOutput.fault names the stage. Results carry the bytes of the KV cache, reserved and
// used.
//
// On a GPU weights, cache and all that is computed with them are there; fp32 is fp32, not TF32. The
// logits come to the CPU, where tokens are chosen.
//
// A step runs within Launch; Collect hands out its result. What torch throws becomes a Status here,
// and torch is known to no one who includes this header. Not thread safe, as ModelExecutor says.
class TorchBaselineExecutor final : public ModelExecutor {
 public:
  // INVALID_ARGUMENT names the option; RESOURCE_EXHAUSTED the static cache's size if it could not
  // be had, or what else did not fit; UNIMPLEMENTED weights that are neither fp32 nor bf16;
  // FAILED_PRECONDITION torch without CUDA, or no GPU that it can use.
  static absl::StatusOr<std::unique_ptr<TorchBaselineExecutor>> Create(
      std::shared_ptr<const Weights> weights, const TorchBaselineOptions& options);
  ~TorchBaselineExecutor() override;

  // What can change a token here, besides the model (ModelNumericsParts) and which GPU it is:
  // torch's version, the instruction set that it chose and the threads that its sums are cut by on
  // a CPU, the cache, the sampler.
  NumericsParts numerics_parts() const;

  const ExecutorLimits& limits() const override { return limits_; }
  absl::Status Launch(const StepPlan& plan) override;
  absl::Status Collect(StepResult* result) override;

  // For tests. The observer sees the raw logits, [vocabulary], of every row that has any, by rising
  // position, within Launch.
  using LogitsObserver = std::function<void(uint32_t position, const float* logits)>;
  void set_logits_observer(LogitsObserver observer) { observer_ = std::move(observer); }

 private:
  TorchBaselineExecutor(const TorchBaselineOptions& options, const ExecutorLimits& limits,
                        std::unique_ptr<TorchKvCache> cache, std::unique_ptr<TorchModel> model);

  // Runs a few tokens, so that the first request need not wait for what CUDA loads when it is first
  // called, and forgets them.
  void WarmUp();
  void Step(const StepPlan& plan);
  void Run(const SlotRun& run);
  // `states` are the run's hidden states, [1, num_tokens, hidden]. Gives kLogits or kNone.
  NumericFault AddPromptLogprobs(const Slot& slot, uint32_t num_tokens, const at::Tensor& states,
                                 StepResult::Logprobs* out);
  Sampler::Choice Sample(const Slot& slot, const at::Tensor& last_state);

  const TorchBaselineOptions options_;
  const ExecutorLimits limits_;
  std::unique_ptr<TorchKvCache> cache_;
  std::unique_ptr<TorchModel> model_;
  ThreadPool sampling_{
      1};  // the calling thread, with the floating-point mode that sampling asks for
  Sampler sampler_;
  SlotTable slots_;
  StepResult result_;
  bool has_result_ = false;
  LogitsObserver observer_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_TORCH_BASELINE_TORCH_BASELINE_EXECUTOR_H_
