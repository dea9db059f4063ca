#ifndef QUIRE_WORKER_ENGINE_MODEL_EXECUTOR_H_
#define QUIRE_WORKER_ENGINE_MODEL_EXECUTOR_H_

#include <cstdint>

#include "absl/status/status.h"
#include "scheduler/batch/step_plan.h"

namespace quire {

// What an executor was built with. A plan stays within it.
struct ExecutorLimits {
  uint32_t num_slots = 0;
  uint32_t max_num_batched_tokens = 0;  // positions a step
  uint32_t context_length = 0;          // tokens a sequence
  uint32_t vocabulary_size = 0;
  uint32_t block_size = 0;  // tokens a block; 0: the executor does not page
  uint32_t num_blocks = 0;
  uint64_t kv_bytes_per_token = 0;
  // Launches that may be outstanding: 1 for a CPU, 2 where a step is planned while one runs.
  uint32_t max_steps_in_flight = 1;
};

// Carries out step plans on a device. The engine loop sees the device through this header alone.
//
// Not thread safe: one thread calls it. Steps run in the order of their launches, so blocks that
// one plan frees may be written by the next.
class ModelExecutor {
 public:
  virtual ~ModelExecutor() = default;

  virtual const ExecutorLimits& limits() const = 0;

  // Starts a step. The plan is not used after the return. An error is final: the device is lost.
  // REQUIRES: fewer than max_steps_in_flight launches are uncollected.
  virtual absl::Status Launch(const StepPlan& plan) = 0;

  // Waits for the oldest launched step and replaces `result` by its outcome. An error is final.
  // REQUIRES: a launch is uncollected.
  virtual absl::Status Collect(StepResult* result) = 0;
};

}  // namespace quire

#endif  // QUIRE_WORKER_ENGINE_MODEL_EXECUTOR_H_
