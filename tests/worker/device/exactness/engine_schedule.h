#ifndef QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_ENGINE_SCHEDULE_H_
#define QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_ENGINE_SCHEDULE_H_

#include <cstdint>
#include <vector>

#include "tests/worker/device/exactness/engine_subject.h"
#include "tests/worker/device/exactness/executor_under_test.h"
#include "tests/worker/device/exactness/random.h"

namespace quire {

// One run of a subject's requests through RequestEngine and BatchScheduler. Slots, budget and
// blocks are at most the executor's.
struct EngineSchedule {
  std::vector<uint32_t> arrivals;          // requests, the first to come at the end
  uint32_t max_gap_steps = 8;              // between two arrivals there are fewer
  bool settles_before_follow_ups = false;  // the first of them comes when all before have ended
  uint32_t num_slots = 0;
  uint32_t max_num_batched_tokens = 0;
  uint32_t num_blocks = 0;
  bool prefix_caching = true;
  // Looking at the logits makes the device wait. Without, tokens and log-probabilities are compared
  // alone, and steps overlap as they do in a service.
  bool observes_logits = true;
};

struct ExactnessCounts {
  uint64_t schedules = 0;
  uint64_t preemptions = 0;
  uint64_t prefix_hit_tokens = 0;
  uint64_t generated_hit_tokens = 0;  // of them, an earlier request's output in a later's prompt
  uint64_t rows = 0;                  // of logits, compared
  uint64_t tokens = 0;                // compared
  uint64_t logprobs = 0;              // tokens whose log-probabilities were compared
  uint32_t most_running = 0;          // runs of a step
};

// Each request with a chance of one half, in random order.
std::vector<uint32_t> RandomArrivals(const EngineSubject& subject, TestRandom& random);

// A crowd of all requests in all slots, in a pool for all of them or for few; or some of the
// requests, without long ones or with, in a burst or one by one, in few slots and a pool for hardly
// more than the longest. Follow-ups come last. REQUIRES: the executor holds the longest request.
EngineSchedule RandomEngineSchedule(const EngineSubject& subject, const ExecutorLimits& limits,
                                    TestRandom& random);

// Runs the schedule with as many steps in flight as the executor allows, cancelling some requests
// and beginning some choices with emitted tokens, and expects (GoogleTest) every row of logits,
// token and log-probability to be that of the choice alone, bitwise, and every block to be back in
// the end. A block is full of NaN when a sequence gets it. The executor is as before afterwards.
// False: something differed; the first rows that did are reported.
bool RunEngineSchedule(const EngineSubject& subject, const EngineSchedule& schedule,
                       ExecutorUnderTest& executor, TestRandom& random, ExactnessCounts* counts);

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_ENGINE_SCHEDULE_H_
