#ifndef QUIRE_SCHEDULER_PLACEMENT_PREFIX_AFFINITY_H_
#define QUIRE_SCHEDULER_PLACEMENT_PREFIX_AFFINITY_H_

#include <cstdint>
#include <list>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "scheduler/kv/prefix_hash.h"
#include "scheduler/placement/worker_snapshot.h"
#include "scheduler/sampling_params.h"

namespace quire {

// Remembers which prompt prefixes went to which worker, so that a prompt can follow the blocks that
// an earlier one left in a worker's cache. A guess: the worker may have evicted them.
//
// Prefixes are cut every kChunkTokens tokens. The least recently used are forgotten beyond
// `max_chunks`. Deterministic: lookups only, nothing iterates a hash container. Not thread safe.
class PrefixAffinity {
 public:
  static constexpr uint32_t kChunkTokens = 64;

  explicit PrefixAffinity(size_t max_chunks) : max_chunks_(max_chunks) {}

  // The chunks of a prompt, to be passed to the other calls, by the same key always. `salt` holds
  // whatever else must be equal: the model and the cache salt.
  static std::vector<PrefixHash> Chunks(const PrefixHashKey& key, std::string_view salt,
                                        std::span<const TokenId> prompt);

  // Tokens at the beginning of the prompt that went to `worker` before.
  uint32_t MatchedTokens(std::span<const PrefixHash> chunks, WorkerNumber worker) const;

  // The prompt goes to `worker`.
  void Record(std::span<const PrefixHash> chunks, WorkerNumber worker);

  size_t num_chunks() const { return entries_.size(); }

 private:
  using Key = std::pair<PrefixHash, WorkerNumber>;

  const size_t max_chunks_;
  std::list<Key> by_use_;  // least recently used first
  absl::flat_hash_map<Key, std::list<Key>::iterator> entries_;
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_PLACEMENT_PREFIX_AFFINITY_H_
