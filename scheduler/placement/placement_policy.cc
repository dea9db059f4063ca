#include "scheduler/placement/placement_policy.h"

#include <tuple>

#include "scheduler/check.h"

namespace quire {
namespace {

// Smaller is better. Load is scaled by kTokensPerSequence, so that matched tokens subtract from it
// without division.
auto Cost(const PlacementCandidate& candidate) {
  const WorkerSnapshot& worker = candidate.worker;
  const int64_t load =
      static_cast<int64_t>(worker.load()) * kTokensPerSequence - int64_t{candidate.matched_tokens};
  const int64_t blocks = int64_t{worker.blocks_free} + worker.blocks_cached;
  return std::tuple(load, -blocks, worker.worker);
}

}  // namespace

PlacementDecision PlaceRequest(const PlacementRequest& request,
                               std::span<const PlacementCandidate> candidates) {
  QUIRE_CHECK(!candidates.empty());
  const uint64_t tokens = uint64_t{request.prompt_tokens} + request.max_new_tokens;
  const PlacementCandidate* best = nullptr;
  const PlacementCandidate* largest = nullptr;
  bool fits = false;
  for (const PlacementCandidate& candidate : candidates) {
    const WorkerSnapshot& worker = candidate.worker;
    if (worker.BlocksFor(tokens) > worker.blocks_total) {
      if (largest == nullptr || worker.blocks_total > largest->worker.blocks_total)
        largest = &candidate;
      continue;
    }
    fits = true;
    if (worker.room() < request.num_choices) continue;
    if (best == nullptr || Cost(candidate) < Cost(*best)) best = &candidate;
  }
  PlacementDecision decision;
  if (best != nullptr) {
    decision.outcome = PlacementDecision::Outcome::kPlaced;
    decision.worker = best->worker.worker;
  } else if (!fits) {
    decision.outcome = PlacementDecision::Outcome::kNeverFits;
    decision.blocks_needed = largest->worker.BlocksFor(tokens);
    decision.blocks_had = largest->worker.blocks_total;
  }
  return decision;
}

}  // namespace quire
