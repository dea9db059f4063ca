#include "scheduler/batch/sequence_errors.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quire {
namespace {

absl::string_view StageName(NumericFault fault) {
  switch (fault) {
    case NumericFault::kNone:
      return "no stage";
    case NumericFault::kEmbedding:
      return "the embedding";
    case NumericFault::kAttention:
      return "attention";
    case NumericFault::kMlp:
      return "the MLP";
    case NumericFault::kLogits:
      return "the logits";
  }
  return "an unknown stage";
}

}  // namespace

absl::Status QueueFullError(size_t num_waiting) {
  return absl::ResourceExhaustedError(
      absl::StrCat("the worker's queue is full: ", num_waiting, " sequences wait"));
}

absl::Status QueueTimeoutError(Micros waited) {
  return absl::DeadlineExceededError(absl::StrCat("queue_timeout_ms passed after ", waited / 1000,
                                                  " ms in the worker's queue, 0 tokens out"));
}

absl::Status NumericFaultError(NumericFault fault, uint32_t output_index) {
  return absl::InternalError(absl::StrCat("numbers were not finite after ", StageName(fault),
                                          ", at output token ", output_index));
}

}  // namespace quire
