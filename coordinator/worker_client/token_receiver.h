#ifndef QUIRE_COORDINATOR_WORKER_CLIENT_TOKEN_RECEIVER_H_
#define QUIRE_COORDINATOR_WORKER_CLIENT_TOKEN_RECEIVER_H_

#include <cstdint>

#include <quire/worker/v1/worker.pb.h>
#include "absl/status/status.h"
#include "absl/types/span.h"

namespace quire {

// How a worker's requests were lost. What kGone and kHangs befell may have been their doing; a
// worker that is not heard may be well, and the network between is not.
enum class WorkerLoss {
  kGone,     // its connection ended
  kHangs,    // it answers, and its engine settles no step
  kDrained,  // it ended as it had said that it would
  kUnheard,  // it was silent or deaf, or the coordinator gave it up
};

// Hears what a worker says of one request. `attempt` tells which placement of the request speaks:
// the receiver ignores all but the current one. Calls come in the order of the worker's messages,
// and none holds a lock of the caller's.
class TokenReceiver {
 public:
  virtual ~TokenReceiver() = default;
  // Log-probabilities of prompt tokens, before the first token.
  virtual void OnPromptLogprobs(const worker::v1::EntryLogprobs& logprobs) = 0;
  // Tokens of a choice; ids[0] has index `first_index` in its output. `logprobs` has theirs; null:
  // none came.
  virtual void OnTokens(uint32_t attempt, uint32_t choice, uint32_t first_index,
                        absl::Span<const uint32_t> ids,
                        const worker::v1::EntryLogprobs* logprobs) = 0;
  virtual void OnNotice(const quire::v1::Notice& notice) = 0;
  // The end of a choice, after its tokens.
  virtual void OnFinish(const worker::v1::Finish& finish) = 0;
  // The worker did not take the request, or the connection was lost before it ended.
  virtual void OnRejected(uint32_t attempt, const absl::Status& status) = 0;
  virtual void OnWorkerLost(uint32_t attempt, WorkerLoss loss, const absl::Status& status) = 0;
  // The worker drains: it goes on with the request for a while, but would be rid of it.
  virtual void OnWorkerDraining(uint32_t attempt) = 0;
  // All that one message of the worker held for this request has been told.
  virtual void OnMessageEnd() = 0;
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_WORKER_CLIENT_TOKEN_RECEIVER_H_
