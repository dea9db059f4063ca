#ifndef QUIRE_SCHEDULER_PLACEMENT_PLACEMENT_POLICY_H_
#define QUIRE_SCHEDULER_PLACEMENT_PLACEMENT_POLICY_H_

#include <cstdint>
#include <span>

#include "scheduler/placement/worker_snapshot.h"

// Which worker gets a request: this is where a worker is picked. A stateless function over
// snapshots.
namespace quire {

// A worker that could serve the request: right model and engine, ready, not refused it before.
struct PlacementCandidate {
  WorkerSnapshot worker;
  uint32_t matched_tokens = 0;  // of the prompt, expected in its prefix cache
};

struct PlacementRequest {
  uint32_t prompt_tokens = 0;
  uint32_t max_new_tokens = 0;
  uint32_t num_choices = 1;
};

struct PlacementDecision {
  enum class Outcome : uint8_t {
    kPlaced,
    kFull,       // no queue has room now
    kNeverFits,  // a choice needs more KV blocks than any candidate has
  };
  Outcome outcome = Outcome::kFull;
  WorkerNumber worker = 0;     // kPlaced
  uint64_t blocks_needed = 0;  // kNeverFits, for the candidate with the most blocks
  uint64_t blocks_had = 0;
};

// The candidate that has the least to do before the request's first token, counted in sequences:
// those it has, less what the cached prefix saves. A match counts for as many sequences as the
// prompt has matched chunks of kTokensPerSequence, so that affinity cannot pile everything on one
// worker. Blocks decide between equals, then the lower worker number. REQUIRES: candidates is not
// empty.
PlacementDecision PlaceRequest(const PlacementRequest& request,
                               std::span<const PlacementCandidate> candidates);

inline constexpr uint32_t kTokensPerSequence = 256;

}  // namespace quire

#endif  // QUIRE_SCHEDULER_PLACEMENT_PLACEMENT_POLICY_H_
