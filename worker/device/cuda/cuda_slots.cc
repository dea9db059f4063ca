#include "worker/device/cuda/cuda_slots.h"

#include <utility>

namespace quire::cuda {

absl::StatusOr<CudaSlots> CudaSlots::Create(uint32_t num_slots, uint32_t table_stride,
                                            uint32_t vocabulary_size) {
  CudaSlots slots;
  slots.table_stride_ = table_stride;
  slots.vocabulary_size_ = vocabulary_size;
  absl::Status status;
  const auto make = [&](uint64_t per_slot, size_t element, const char* what, DeviceBuffer* out) {
    if (!status.ok()) return;
    absl::StatusOr<DeviceBuffer> buffer =
        DeviceBuffer::Create(num_slots * per_slot * element, what);
    status = buffer.status();
    if (!status.ok()) return;
    *out = *std::move(buffer);
    const cudaError_t error = cudaMemset(out->data(), 0, out->size());
    if (error != cudaSuccess) status = CudaStatus(error, what);
  };
  make(1, sizeof(int32_t), "last tokens", &slots.last_tokens_);
  make(table_stride, sizeof(int32_t), "block tables", &slots.block_tables_);
  make(1, sizeof(SlotSampling), "sampling parameters", &slots.sampling_);
  make(kMaxBiases, sizeof(uint32_t), "logit biases", &slots.bias_tokens_);
  make(kMaxBiases, sizeof(float), "logit biases", &slots.bias_values_);
  make(kMaxEosTokens, sizeof(uint32_t), "EOS ids", &slots.eos_tokens_);
  make(vocabulary_size, sizeof(uint32_t), "token counts", &slots.counts_);
  if (!status.ok()) return status;
  return slots;
}

SlotPointers CudaSlots::pointers() const {
  SlotPointers pointers;
  pointers.last_tokens = static_cast<int32_t*>(last_tokens_.data());
  pointers.block_tables = static_cast<int32_t*>(block_tables_.data());
  pointers.table_stride = table_stride_;
  return pointers;
}

void CudaSlots::Describe(SamplingArgs* args) const {
  args->vocabulary_size = vocabulary_size_;
  args->slots = static_cast<SlotSampling*>(sampling_.data());
  args->bias_tokens = static_cast<uint32_t*>(bias_tokens_.data());
  args->bias_values = static_cast<float*>(bias_values_.data());
  args->eos_tokens = static_cast<uint32_t*>(eos_tokens_.data());
  args->counts = static_cast<uint32_t*>(counts_.data());
  args->last_tokens = static_cast<int32_t*>(last_tokens_.data());
}

cudaError_t CudaSlots::Update(const StepInputs& inputs, const DeviceStepInputs& at,
                              cudaStream_t stream) {
  SlotUpdateArgs args;
  args.tables = at.tables;
  args.num_tables = static_cast<uint32_t>(inputs.tables.size());
  args.samplings = at.samplings;
  args.num_samplings = static_cast<uint32_t>(inputs.samplings.size());
  args.bias_tokens = at.bias_tokens;
  args.bias_values = at.bias_values;
  args.eos_tokens = at.eos_tokens;
  args.block_tables = static_cast<int32_t*>(block_tables_.data());
  args.table_stride = table_stride_;
  args.slots = static_cast<SlotSampling*>(sampling_.data());
  args.slot_bias_tokens = static_cast<uint32_t*>(bias_tokens_.data());
  args.slot_bias_values = static_cast<float*>(bias_values_.data());
  args.slot_eos_tokens = static_cast<uint32_t*>(eos_tokens_.data());
  cudaError_t error = UpdateSlots(args, stream);
  for (const CountFill& fill : inputs.count_fills) {
    if (error != cudaSuccess) break;
    uint32_t* const counts =
        static_cast<uint32_t*>(counts_.data()) + size_t{fill.slot} * vocabulary_size_;
    error = FillCounts(at.count_tokens + fill.first_token, fill.num_tokens, fill.num_prompt_tokens,
                       counts, vocabulary_size_, stream);
  }
  return error;
}

uint64_t CudaSlots::bytes() const {
  uint64_t sum = 0;
  for (const DeviceBuffer* buffer : {&last_tokens_, &block_tables_, &sampling_, &bias_tokens_,
                                     &bias_values_, &eos_tokens_, &counts_}) {
    sum += buffer->size();
  }
  return sum;
}

}  // namespace quire::cuda
