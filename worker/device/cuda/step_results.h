#ifndef QUIRE_WORKER_DEVICE_CUDA_STEP_RESULTS_H_
#define QUIRE_WORKER_DEVICE_CUDA_STEP_RESULTS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/batch/step_plan.h"
#include "worker/device/cuda/device_memory.h"
#include "worker/device/cuda/kernels/sampling.h"
#include "worker/device/cuda/step_builder.h"

namespace quire::cuda {

// A launched step, and its results on the host once they are there.
class PendingStep {
 public:
  static absl::StatusOr<PendingStep> Create(uint32_t max_rows);

  StepRecord& record() { return record_; }
  const StepRecord& record() const { return record_; }

  // Where sampling is to leave its results for the rows of logits from `first` on: the device
  // writes them to the host's memory itself.
  void Describe(uint32_t first, SamplingArgs* args) const;
  // Enqueues what else there is to bring. `faults` is the model's, on the device.
  cudaError_t Enqueue(const uint8_t* faults, cudaStream_t stream);
  // Waits for all of it. An error is the step's.
  absl::Status Wait() const;
  // REQUIRES: Wait was OK.
  void Read(uint32_t vocabulary_size, StepResult* result) const;

 private:
  NumericFault FaultOf(const StepRecord::Run& run) const;
  void ReadRun(const StepRecord::Run& run, uint32_t vocabulary_size, StepResult* result) const;

  StepRecord record_;
  PinnedBuffer results_;
  PinnedBuffer logprobs_;
  PinnedBuffer prompt_logprobs_;
  PinnedBuffer faults_;
  Event done_;
};

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_STEP_RESULTS_H_
