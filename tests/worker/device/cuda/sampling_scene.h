#ifndef QUIRE_TESTS_WORKER_DEVICE_CUDA_SAMPLING_SCENE_H_
#define QUIRE_TESTS_WORKER_DEVICE_CUDA_SAMPLING_SCENE_H_

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "scheduler/sampling_params.h"
#include "tests/worker/device/cuda/gpu_test.h"
#include "worker/device/cuda/kernels/sampling.h"

namespace quire::cuda {

// Those that a test goes through: all, or under a sanitizer those up to 8,192.
std::vector<uint32_t> Vocabularies(std::initializer_list<uint32_t> all);

// Normally distributed logits.
std::vector<float> RandomLogits(uint32_t n, float deviation, uint64_t seed);
// Index of the largest, the first of equal ones.
uint32_t ArgMax(const std::vector<float>& values);

// A sequence whose next token is sampled. Slots are numbered as they are added.
struct SlotSpec {
  SamplingParams params;
  std::vector<TokenId> prompt = {1, 2, 3, 2};
  std::vector<TokenId> output;
};

std::vector<SlotSpec> SlotsOf(size_t count, const SamplingParams& params);

// Every filter alone, together, and in cases that make selection work hard: 16 settings, all of
// which draw.
std::vector<SamplingParams> SamplingSettings();

// Slots on the device and rows of logits to sample from.
class SamplingScene {
 public:
  struct Row {
    const std::vector<float>* logits = nullptr;  // [vocabulary]
    LogitsRow row;
  };
  struct Outcome {
    std::vector<RowResult> results;
    std::vector<RowLogprobs> logprobs;
    std::vector<RowLogprobs> prompt_logprobs;
  };

  SamplingScene(uint32_t vocabulary_size, std::vector<SlotSpec> slots, uint32_t max_rows);

  // The row that samples a slot's next token, as the executor describes it.
  Row NextOf(uint32_t slot, const std::vector<float>& logits) const;
  // Brings a slot's tokens, counts included, to what its spec says; the last token to −1.
  void Refill(uint32_t slot);

  // Puts the rows onto the device; Args() then names them.
  void SetRows(const std::vector<Row>& rows);
  SamplingArgs Args() const;
  // What the last launch left. Of what it did not write, every byte is 0xff.
  Outcome Read() const;
  // All three.
  Outcome Run(const std::vector<Row>& rows, SamplingNeeds needs);

  std::vector<int32_t> LastTokens() const { return last_tokens_.Read(); }
  std::vector<uint32_t> Counts(uint32_t slot) const;

  SlotSpec& slot(uint32_t slot) { return specs_[slot]; }
  const SlotSpec& slot(uint32_t slot) const { return specs_[slot]; }
  // Brings all slots' parameters, as slot() has them, onto the device.
  void WriteParams();

 private:
  const uint32_t vocabulary_size_;
  std::vector<SlotSpec> specs_;
  uint32_t num_rows_ = 0;
  DeviceArray<float> logits_;
  DeviceArray<LogitsRow> rows_;
  DeviceArray<SlotSampling> slots_;
  DeviceArray<uint32_t> bias_tokens_;
  DeviceArray<float> bias_values_;
  DeviceArray<uint32_t> eos_tokens_;
  DeviceArray<uint32_t> counts_;
  DeviceArray<int32_t> last_tokens_;
  DeviceArray<RowResult> results_;
  DeviceArray<RowLogprobs> logprobs_;
  DeviceArray<RowLogprobs> prompt_logprobs_;
};

// Times Sample at the shapes that matter and prints a table.
void PrintSamplingTimes();

}  // namespace quire::cuda

#endif  // QUIRE_TESTS_WORKER_DEVICE_CUDA_SAMPLING_SCENE_H_
