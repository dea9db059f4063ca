#ifndef QUIRE_WORKER_DEVICE_CUDA_STEP_INPUTS_H_
#define QUIRE_WORKER_DEVICE_CUDA_STEP_INPUTS_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/device/cuda/device_memory.h"
#include "worker/device/cuda/kernels/attention.h"
#include "worker/device/cuda/kernels/sampling.h"
#include "worker/device/cuda/kernels/slots.h"

namespace quire::cuda {

// A slot whose counts (sampling.h) are to be made anew.
struct CountFill {
  uint32_t slot = 0;
  uint32_t first_token = 0;  // into StepInputs::count_tokens
  uint32_t num_tokens = 0;
  uint32_t num_prompt_tokens = 0;
};

// What a step tells the device, as the host builds it.
struct StepInputs {
  // One entry a row.
  std::vector<int32_t> row_tokens;
  std::vector<int32_t> row_slots;
  std::vector<int32_t> row_positions;
  // One entry a row of logits.
  std::vector<int32_t> logits_rows;  // into the rows
  std::vector<LogitsRow> logits;
  std::vector<DecodeItem> decode_items;
  std::vector<PrefillTile> prefill_tiles;
  // Changes to slots; see slots.h.
  std::vector<TableUpdate> tables;
  std::vector<SamplingUpdate> samplings;
  std::vector<uint32_t> bias_tokens;
  std::vector<float> bias_values;
  std::vector<uint32_t> eos_tokens;
  std::vector<int32_t> count_tokens;
  std::vector<CountFill> count_fills;  // stays on the host

  void Clear();
  // Of the changes to slots.
  size_t UpdateBytes() const;
  // Rows and rows of logits that do nothing, up to those numbers.
  void Pad(uint32_t num_rows, uint32_t num_logits);
};

// Where the same things lie on the device.
struct DeviceStepInputs {
  const int32_t* row_tokens = nullptr;
  const int32_t* row_slots = nullptr;
  const int32_t* row_positions = nullptr;
  const int32_t* logits_rows = nullptr;
  const LogitsRow* logits = nullptr;
  const uint32_t* num_decode_items = nullptr;
  const DecodeItem* decode_items = nullptr;
  const PrefillTile* prefill_tiles = nullptr;
  const TableUpdate* tables = nullptr;
  const SamplingUpdate* samplings = nullptr;
  const uint32_t* bias_tokens = nullptr;
  const float* bias_values = nullptr;
  const uint32_t* eos_tokens = nullptr;
  const int32_t* count_tokens = nullptr;
};

// Brings a step's inputs to the device in one go, without waiting.
//
// Everything up to the decode items lies where the numbers of rows and of rows of logits alone say,
// so that a captured graph finds it.
class StepUploader {
 public:
  // What aligning the arrays takes at most.
  static constexpr size_t kSlackBytes = 256;

  // `max_bytes` bounds one step's inputs. `depth`: copies that may be under way at once.
  static absl::StatusOr<StepUploader> Create(size_t max_bytes, uint32_t depth);

  // Where a step of that shape will lie: what a graph is captured with. Nothing after the decode
  // items is meant.
  DeviceStepInputs At(uint32_t num_rows, uint32_t num_logits) const;

  // Enqueues the copy. Waits only if `depth` earlier ones are still under way.
  absl::StatusOr<DeviceStepInputs> Upload(const StepInputs& inputs, cudaStream_t stream);

 private:
  struct Copy {
    PinnedBuffer host;
    Event done;
    bool is_used = false;
  };

  DeviceBuffer device_;
  std::vector<Copy> copies_;
  uint32_t next_ = 0;
};

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_STEP_INPUTS_H_
