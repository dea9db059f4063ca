#ifndef QUIRE_WORKER_DEVICE_CUDA_CUDA_SLOTS_H_
#define QUIRE_WORKER_DEVICE_CUDA_CUDA_SLOTS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/device/cuda/cuda_model.h"
#include "worker/device/cuda/device_memory.h"
#include "worker/device/cuda/kernels/sampling.h"
#include "worker/device/cuda/step_inputs.h"

namespace quire::cuda {

// The slots of an executor, as the device holds them: last tokens, block tables, sampling
// parameters and token counts. sampling.h gives the shapes.
class CudaSlots {
 public:
  static absl::StatusOr<CudaSlots> Create(uint32_t num_slots, uint32_t table_stride,
                                          uint32_t vocabulary_size);

  // What the model reads.
  SlotPointers pointers() const;
  // What sampling reads and writes.
  void Describe(SamplingArgs* args) const;
  // Enqueues the changes of `inputs`, which lie at `at`.
  cudaError_t Update(const StepInputs& inputs, const DeviceStepInputs& at, cudaStream_t stream);

  uint64_t bytes() const;

 private:
  uint32_t table_stride_ = 0;
  uint32_t vocabulary_size_ = 0;
  DeviceBuffer last_tokens_;
  DeviceBuffer block_tables_;
  DeviceBuffer sampling_;
  DeviceBuffer bias_tokens_;
  DeviceBuffer bias_values_;
  DeviceBuffer eos_tokens_;
  DeviceBuffer counts_;
};

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_CUDA_SLOTS_H_
