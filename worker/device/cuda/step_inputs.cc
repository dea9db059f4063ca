#include "worker/device/cuda/step_inputs.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quire::cuda {
namespace {

constexpr size_t kAlignment = 16;
// Beyond it the copy engine is faster than a kernel.
constexpr size_t kMostBytesByKernel = 64 * 1024;

// Lays arrays out one after the other, for the device, and places them so in the host's memory.
class Layout {
 public:
  Layout(const void* device, void* host)
      : device_(static_cast<const uint8_t*>(device)), host_(static_cast<uint8_t*>(host)) {}

  template <typename T>
  void Reserve(size_t count, const T** at) {
    *at = reinterpret_cast<const T*>(device_ + offset_);
    offset_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }
  template <typename T>
  void Place(const T* values, size_t count, const T** at) {
    if (count > 0) std::memcpy(host_ + offset_, values, count * sizeof(T));
    Reserve(count, at);
  }
  template <typename T>
  void Place(const std::vector<T>& values, const T** at) {
    Place(values.data(), values.size(), at);
  }

  size_t bytes() const { return offset_; }

 private:
  const uint8_t* device_;
  uint8_t* host_;
  size_t offset_ = 0;
};

template <typename T>
size_t Bytes(const std::vector<T>& values) {
  return values.size() * sizeof(T);
}

}  // namespace

void StepInputs::Clear() {
  row_tokens.clear();
  row_slots.clear();
  row_positions.clear();
  logits_rows.clear();
  logits.clear();
  decode_items.clear();
  prefill_tiles.clear();
  tables.clear();
  samplings.clear();
  bias_tokens.clear();
  bias_values.clear();
  eos_tokens.clear();
  count_tokens.clear();
  count_fills.clear();
}

size_t StepInputs::UpdateBytes() const {
  return Bytes(tables) + Bytes(samplings) + Bytes(bias_tokens) + Bytes(bias_values) +
         Bytes(eos_tokens) + Bytes(count_tokens) + Bytes(count_fills);
}

void StepInputs::Pad(uint32_t num_rows, uint32_t num_logits) {
  row_tokens.resize(num_rows, 0);
  row_slots.resize(num_rows, -1);
  row_positions.resize(num_rows, 0);
  logits_rows.resize(num_logits, -1);
  LogitsRow nothing;
  nothing.slot = -1;
  logits.resize(num_logits, nothing);
}

absl::StatusOr<StepUploader> StepUploader::Create(size_t max_bytes, uint32_t depth) {
  StepUploader uploader;
  absl::StatusOr<DeviceBuffer> device = DeviceBuffer::Create(max_bytes, "a step's inputs");
  if (!device.ok()) return device.status();
  uploader.device_ = *std::move(device);
  for (uint32_t i = 0; i < depth; ++i) {
    Copy& copy = uploader.copies_.emplace_back();
    absl::StatusOr<PinnedBuffer> host = PinnedBuffer::Create(max_bytes, "a step's inputs");
    if (!host.ok()) return host.status();
    copy.host = *std::move(host);
    absl::StatusOr<Event> done = Event::Create();
    if (!done.ok()) return done.status();
    copy.done = *std::move(done);
  }
  return uploader;
}

DeviceStepInputs StepUploader::At(uint32_t num_rows, uint32_t num_logits) const {
  DeviceStepInputs at;
  Layout layout(device_.data(), nullptr);
  layout.Reserve(num_rows, &at.row_tokens);
  layout.Reserve(num_rows, &at.row_slots);
  layout.Reserve(num_rows, &at.row_positions);
  layout.Reserve(num_logits, &at.logits_rows);
  layout.Reserve(num_logits, &at.logits);
  layout.Reserve(1, &at.num_decode_items);
  layout.Reserve(0, &at.decode_items);
  return at;
}

absl::StatusOr<DeviceStepInputs> StepUploader::Upload(const StepInputs& inputs,
                                                      cudaStream_t stream) {
  const size_t bytes = Bytes(inputs.row_tokens) + Bytes(inputs.row_slots) +
                       Bytes(inputs.row_positions) + Bytes(inputs.logits_rows) +
                       Bytes(inputs.logits) + Bytes(inputs.decode_items) +
                       Bytes(inputs.prefill_tiles) + inputs.UpdateBytes() + kSlackBytes;
  if (bytes > device_.size()) {
    return absl::InternalError(
        absl::StrCat("a step's inputs have ", bytes, " bytes; room is for ", device_.size()));
  }
  Copy& copy = copies_[next_];
  next_ = (next_ + 1) % copies_.size();
  if (copy.is_used) {
    if (cudaError_t error = cudaEventSynchronize(copy.done.get()); error != cudaSuccess) {
      return CudaStatus(error, "an earlier step");
    }
  }
  DeviceStepInputs at;
  Layout layout(device_.data(), copy.host.data());
  const uint32_t num_decode_items = static_cast<uint32_t>(inputs.decode_items.size());
  layout.Place(inputs.row_tokens, &at.row_tokens);
  layout.Place(inputs.row_slots, &at.row_slots);
  layout.Place(inputs.row_positions, &at.row_positions);
  layout.Place(inputs.logits_rows, &at.logits_rows);
  layout.Place(inputs.logits, &at.logits);
  layout.Place(&num_decode_items, 1, &at.num_decode_items);
  layout.Place(inputs.decode_items, &at.decode_items);
  layout.Place(inputs.prefill_tiles, &at.prefill_tiles);
  layout.Place(inputs.tables, &at.tables);
  layout.Place(inputs.samplings, &at.samplings);
  layout.Place(inputs.bias_tokens, &at.bias_tokens);
  layout.Place(inputs.bias_values, &at.bias_values);
  layout.Place(inputs.eos_tokens, &at.eos_tokens);
  layout.Place(inputs.count_tokens, &at.count_tokens);
  cudaError_t error = layout.bytes() <= kMostBytesByKernel
                          ? CopyFromHost(copy.host.data(), layout.bytes(), device_.data(), stream)
                          : cudaMemcpyAsync(device_.data(), copy.host.data(), layout.bytes(),
                                            cudaMemcpyHostToDevice, stream);
  if (error == cudaSuccess) error = cudaEventRecord(copy.done.get(), stream);
  if (error != cudaSuccess) return CudaStatus(error, "a step's inputs");
  copy.is_used = true;
  return at;
}

}  // namespace quire::cuda
