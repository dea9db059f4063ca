#ifndef QUIRE_SCHEDULER_BATCH_SEQUENCE_ERRORS_H_
#define QUIRE_SCHEDULER_BATCH_SEQUENCE_ERRORS_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "scheduler/batch/step_plan.h"
#include "scheduler/sequence.h"

// What clients read when a sequence is refused or ended: the same words from every scheduler.
namespace quire {

// RESOURCE_EXHAUSTED.
absl::Status QueueFullError(size_t num_waiting);

// DEADLINE_EXCEEDED: `waited` is the time from its arrival to its queue deadline.
absl::Status QueueTimeoutError(Micros waited);

// INTERNAL: the numbers for output token `output_index` went wrong at a stage of the model.
// REQUIRES: fault is not kNone.
absl::Status NumericFaultError(NumericFault fault, uint32_t output_index);

}  // namespace quire

#endif  // QUIRE_SCHEDULER_BATCH_SEQUENCE_ERRORS_H_
