#include "worker/device/cuda/kernels/launch.h"
#include "worker/device/cuda/kernels/slots.h"

namespace quire::cuda {
namespace {

constexpr uint32_t kThreads = 128;

// One block for each sampling update, the others for the tables.
__global__ void __launch_bounds__(kThreads) UpdateSlotsKernel(const SlotUpdateArgs args) {
  WaitForPrimary();
  LetSecondaryStart();
  if (blockIdx.x >= args.num_samplings) {
    const uint32_t i = (blockIdx.x - args.num_samplings) * kThreads + threadIdx.x;
    if (i >= args.num_tables) return;
    const TableUpdate update = args.tables[i];
    args.block_tables[size_t(update.slot) * args.table_stride + update.index] = update.block;
    return;
  }
  const SamplingUpdate& update = args.samplings[blockIdx.x];
  const size_t slot = update.slot;
  if (threadIdx.x == 0) args.slots[slot] = update.sampling;
  for (uint32_t i = threadIdx.x; i < update.sampling.num_biases; i += kThreads) {
    args.slot_bias_tokens[slot * kMaxBiases + i] = args.bias_tokens[update.first_bias + i];
    args.slot_bias_values[slot * kMaxBiases + i] = args.bias_values[update.first_bias + i];
  }
  for (uint32_t i = threadIdx.x; i < update.sampling.num_eos_tokens; i += kThreads) {
    args.slot_eos_tokens[slot * kMaxEosTokens + i] = args.eos_tokens[update.first_eos_token + i];
  }
}

__global__ void __launch_bounds__(kThreads)
    CopyFromHostKernel(const uint4* host, uint32_t count, uint4* device) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i < count) device[i] = host[i];
}

}  // namespace

cudaError_t CopyFromHost(const void* host, size_t bytes, void* device, cudaStream_t stream) {
  const uint32_t count = static_cast<uint32_t>(bytes / sizeof(uint4));
  if (count == 0) return cudaSuccess;
  return LaunchKernelAfterAll(CopyFromHostKernel, dim3((count + kThreads - 1) / kThreads),
                              dim3(kThreads), 0, stream, static_cast<const uint4*>(host), count,
                              static_cast<uint4*>(device));
}

cudaError_t UpdateSlots(const SlotUpdateArgs& args, cudaStream_t stream) {
  const uint32_t blocks = args.num_samplings + (args.num_tables + kThreads - 1) / kThreads;
  if (blocks == 0) return cudaSuccess;
  return LaunchKernel(UpdateSlotsKernel, dim3(blocks), dim3(kThreads), 0, stream, args);
}

}  // namespace quire::cuda
