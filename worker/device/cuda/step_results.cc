#include "worker/device/cuda/step_results.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quire::cuda {
namespace {

TokenLogprobs LogprobsOf(const PinnedBuffer& buffer, uint32_t row, uint32_t num_top) {
  const RowLogprobs& from = static_cast<const RowLogprobs*>(buffer.data())[row];
  TokenLogprobs to;
  to.logprob = from.logprob;
  to.top.reserve(num_top);
  for (uint32_t i = 0; i < num_top; ++i) {
    to.top.push_back({from.top_tokens[i], from.top_logprobs[i]});
  }
  return to;
}

}  // namespace

absl::StatusOr<PendingStep> PendingStep::Create(uint32_t max_rows) {
  PendingStep made;
  absl::Status status;
  const auto make = [&](size_t element, PinnedBuffer* out) {
    if (!status.ok()) return;
    absl::StatusOr<PinnedBuffer> buffer = PinnedBuffer::Create(max_rows * element, "results");
    status = buffer.status();
    if (status.ok()) *out = *std::move(buffer);
  };
  make(sizeof(RowResult), &made.results_);
  make(sizeof(RowLogprobs), &made.logprobs_);
  make(sizeof(RowLogprobs), &made.prompt_logprobs_);
  make(sizeof(uint8_t), &made.faults_);
  if (!status.ok()) return status;
  absl::StatusOr<Event> done = Event::Create();
  if (!done.ok()) return done.status();
  made.done_ = *std::move(done);
  return made;
}

void PendingStep::Describe(uint32_t first, SamplingArgs* args) const {
  args->results = static_cast<RowResult*>(results_.data()) + first;
  args->logprobs = static_cast<RowLogprobs*>(logprobs_.data()) + first;
  args->prompt_logprobs = static_cast<RowLogprobs*>(prompt_logprobs_.data()) + first;
}

cudaError_t PendingStep::Enqueue(const uint8_t* faults, cudaStream_t stream) {
  if (record_.needs_faults) {
    const cudaError_t error =
        cudaMemcpyAsync(faults_.data(), faults, record_.num_rows, cudaMemcpyDeviceToHost, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaEventRecord(done_.get(), stream);
}

absl::Status PendingStep::Wait() const {
  const cudaError_t error = cudaEventSynchronize(done_.get());
  return error == cudaSuccess ? absl::OkStatus()
                              : CudaStatus(error, absl::StrCat("step ", record_.step));
}

void PendingStep::Read(uint32_t vocabulary_size, StepResult* result) const {
  result->Clear();
  result->step = record_.step;
  result->kv = {};
  for (const StepRecord::Run& run : record_.runs) ReadRun(run, vocabulary_size, result);
}

NumericFault PendingStep::FaultOf(const StepRecord::Run& run) const {
  const auto* const faults = static_cast<const uint8_t*>(faults_.data());
  if (record_.needs_faults) {
    for (uint32_t row = run.first_row; row < run.first_row + run.num_rows; ++row) {
      if (faults[row] != 0) return static_cast<NumericFault>(faults[row]);
    }
  }
  const auto* const results = static_cast<const RowResult*>(results_.data());
  for (uint32_t row = run.first_logits; row < run.first_logits + run.num_logits; ++row) {
    if (results[row].fault != 0) return static_cast<NumericFault>(results[row].fault);
  }
  return NumericFault::kNone;
}

void PendingStep::ReadRun(const StepRecord::Run& run, uint32_t vocabulary_size,
                          StepResult* result) const {
  SlotOutput& output = result->outputs.emplace_back();
  output.slot = run.slot;
  output.first_token = static_cast<uint32_t>(result->tokens.size());
  output.fault = FaultOf(run);
  if (output.fault != NumericFault::kNone) return;
  StepResult::Logprobs logprobs;
  logprobs.output = static_cast<uint32_t>(result->outputs.size() - 1);
  for (uint32_t row = run.first_logits; row < run.first_logits + run.num_logits; ++row) {
    const StepRecord::Row& at = record_.rows[row];
    if (at.predicts_prompt) {
      if (logprobs.prompt.empty()) logprobs.first_prompt_position = at.position + 1;
      const uint32_t num_top = std::min(*run.params->prompt_logprobs, vocabulary_size);
      logprobs.prompt.push_back(LogprobsOf(prompt_logprobs_, row, num_top));
    }
    if (!at.samples) continue;
    output.num_tokens = 1;
    result->tokens.push_back(static_cast<const RowResult*>(results_.data())[row].token);
    if (!run.params->logprobs) continue;
    const uint32_t num_top = std::min(*run.params->logprobs, vocabulary_size);
    logprobs.tokens.push_back(LogprobsOf(logprobs_, row, num_top));
  }
  if (!logprobs.prompt.empty() || !logprobs.tokens.empty()) {
    result->logprobs.push_back(std::move(logprobs));
  }
}

}  // namespace quire::cuda
