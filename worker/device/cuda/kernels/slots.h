#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_SLOTS_H_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_SLOTS_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "worker/device/cuda/kernels/sampling.h"

// Changes to slots, carried out on the device.
namespace quire::cuda {

// A slot's block table grows: entry `index` is `block`.
struct TableUpdate {
  int32_t slot = 0;
  int32_t index = 0;
  int32_t block = 0;
};

// A slot samples by these parameters from now on. Its biases and EOS ids are the entries [first_*,
// first_* + sampling.num_*) of the lists that come with the updates.
struct SamplingUpdate {
  int32_t slot = 0;
  uint32_t first_bias = 0;
  uint32_t first_eos_token = 0;
  SlotSampling sampling;
};

struct SlotUpdateArgs {
  const TableUpdate* tables = nullptr;
  uint32_t num_tables = 0;
  const SamplingUpdate* samplings = nullptr;
  uint32_t num_samplings = 0;
  const uint32_t* bias_tokens = nullptr;
  const float* bias_values = nullptr;
  const uint32_t* eos_tokens = nullptr;

  // Of all slots; sampling.h gives the shapes.
  int32_t* block_tables = nullptr;  // [num_slots, table_stride]
  uint32_t table_stride = 0;
  SlotSampling* slots = nullptr;
  uint32_t* slot_bias_tokens = nullptr;
  float* slot_bias_values = nullptr;
  uint32_t* slot_eos_tokens = nullptr;
};

// All pointers are to device memory.
cudaError_t UpdateSlots(const SlotUpdateArgs& args, cudaStream_t stream);

// Copies from page-locked memory of the host, by a kernel: for a few KB sooner done than a copy
// engine is under way. REQUIRES: both are aligned to 16 bytes, and so is `bytes`.
cudaError_t CopyFromHost(const void* host, size_t bytes, void* device, cudaStream_t stream);

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_SLOTS_H_
