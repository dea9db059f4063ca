#ifndef QUIRE_WORKER_ENGINE_ENGINE_H_
#define QUIRE_WORKER_ENGINE_ENGINE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/batch/step_plan.h"
#include "scheduler/sampling_params.h"
#include "scheduler/sequence.h"

// An engine turns requests into step plans and step results into tokens. It knows no threads, no
// clocks and no wire: EngineLoop drives it, and time arrives as an argument. RequestEngine is the
// engine; the scheduler it is given makes it paged (BatchScheduler: continuous batching over a
// block pool) or the baseline (SerialScheduler: one request at a time).
namespace quire {

// Names a request for as long as the worker lives: `session` is the worker's own number for a
// coordinator_id, `request` the coordinator's number for the request.
struct RequestKey {
  uint32_t session = 0;
  uint64_t request = 0;
  friend bool operator==(const RequestKey&, const RequestKey&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const RequestKey& key) {
    return H::combine(std::move(h), key.session, key.request);
  }
};

struct EngineRequest {
  RequestKey key;
  uint32_t attempt = 0;
  std::vector<TokenId> prompt;  // not empty
  // What earlier attempts emitted, an entry a choice; missing entries are empty.
  std::vector<std::vector<TokenId>> emitted;
  // Choices that have ended already and do not run; missing entries are false.
  std::vector<bool> choice_finished;
  SamplingParams params;  // `choice` is the engine's to set
  uint32_t n = 1;
  uint32_t max_new_tokens = 0;  // a choice, emitted ones included
  int32_t priority = 0;         // higher first
  std::string tenant;
  std::string cache_salt;
  std::optional<Micros> queue_deadline;  // not running by then: DEADLINE_EXCEEDED
};

using ChoiceUsage = SequenceUsage;
using ChoiceTimings = SequenceTimings;

struct ChoiceFinish {
  RequestKey key;
  uint32_t attempt = 0;
  uint32_t choice = 0;
  FinishReason reason = FinishReason::kStop;
  std::optional<TokenId> stop_token;
  absl::Status status;  // why, for kAborted; CANCELLED answers a Cancel
  ChoiceUsage usage;
  ChoiceTimings timings;
};

enum class NoticeKind : uint8_t { kPreempted, kRecomputed };

// What happened since the last output. Tokens of a choice come before its finish.
struct EngineOutput {
  struct Entry {
    RequestKey key;
    uint32_t attempt = 0;
    uint32_t choice = 0;
    uint32_t first_index = 0;  // index in the choice's output of its first token here
    uint32_t first_token = 0;  // into `tokens`
    uint32_t num_tokens = 0;
  };
  struct Logprobs {
    RequestKey key;
    uint32_t attempt = 0;
    uint32_t choice = 0;
    uint32_t first_index = 0;
    std::vector<TokenLogprobs> output;
    std::vector<TokenLogprobs> prompt;  // choice 0, once: for the prompt tokens after the first
  };
  struct Notice {
    RequestKey key;
    uint32_t attempt = 0;
    uint32_t choice = 0;
    NoticeKind kind = NoticeKind::kPreempted;
    std::string why;
  };
  uint64_t step = 0;
  std::vector<Entry> entries;
  std::vector<TokenId> tokens;
  std::vector<Logprobs> logprobs;
  std::vector<ChoiceFinish> finishes;
  std::vector<Notice> notices;

  bool empty() const {
    return entries.empty() && logprobs.empty() && finishes.empty() && notices.empty();
  }
  void Clear() {
    entries.clear();
    tokens.clear();
    logprobs.clear();
    finishes.clear();
    notices.clear();
  }
};

struct EngineLoad : SchedulerLoad {
  uint64_t output_tokens = 0;  // ever
};

class Engine {
 public:
  virtual ~Engine() = default;

  // Queues a request. RESOURCE_EXHAUSTED: the queue is full. FAILED_PRECONDITION: it needs more KV
  // than there is; the message gives both numbers. INVALID_ARGUMENT: a token id or a length that no
  // coordinator with this worker's WorkerInfo would send. ALREADY_EXISTS: the key is alive.
  virtual absl::Status Submit(EngineRequest request, Micros now) = 0;

  // Ends a request, or one choice of it. With `stop_index`, only that many output tokens count in
  // the usage. Its Finish comes with the next output, with status CANCELLED. Unknown keys are
  // ignored.
  virtual void Cancel(RequestKey key, std::optional<uint32_t> choice,
                      std::optional<uint32_t> stop_index, Micros now) = 0;

  // Replaces `plan` by the next step. False: nothing to run now; if no step is in flight either,
  // nothing waits, so that there is none before the next Submit. Finishes that need no step (queue
  // timeouts, cancels) appear in the next TakeOutput either way.
  virtual bool Plan(Micros now, StepPlan* plan) = 0;

  // Takes in the result of the oldest planned step that is not settled. May move from it.
  virtual void Settle(StepResult& result, Micros now) = 0;

  // Moves what happened since the last call into `output` (cleared first). The vectors are swapped,
  // so passing the same object again saves allocations.
  virtual void TakeOutput(EngineOutput* output) = 0;

  virtual EngineLoad load() const = 0;
};

}  // namespace quire

#endif  // QUIRE_WORKER_ENGINE_ENGINE_H_
