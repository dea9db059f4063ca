#ifndef QUIRE_SCHEDULER_KV_PREFIX_CACHE_H_
#define QUIRE_SCHEDULER_KV_PREFIX_CACHE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "scheduler/kv/block_pool.h"
#include "scheduler/kv/prefix_hash.h"

namespace quire {

// Finds full blocks by their content: which block holds the keys and values of these tokens, after
// that prefix. Knows nothing of leases or of order of use; the pool says which blocks are lost.
// Not thread safe.
class PrefixCache final : public EvictionListener {
 public:
  // REQUIRES: block_size > 0.
  PrefixCache(uint32_t num_blocks, uint32_t block_size);

  // The block with this content. `hash` leads to it; the token ids and the parent are compared, so
  // that equal hashes of unequal blocks give nothing.
  std::optional<BlockId> Find(const PrefixHash& hash, const PrefixHash& parent,
                              std::span<const TokenId> tokens) const;

  // Makes a block findable, unless one with this hash is already. Returns whether it was made so.
  // REQUIRES: the block is not findable; tokens has block_size entries.
  bool Insert(BlockId block, const PrefixHash& hash, const PrefixHash& parent,
              std::span<const TokenId> tokens);

  void OnEvict(BlockId block) override;

  size_t size() const { return blocks_.size(); }

 private:
  struct Entry {
    PrefixHash hash;
    PrefixHash parent;
  };
  const uint32_t block_size_;
  absl::flat_hash_map<PrefixHash, BlockId> blocks_;  // looked up, never iterated
  std::vector<Entry> entries_;                       // [num_blocks]
  std::vector<TokenId> tokens_;                      // [num_blocks, block_size]
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_KV_PREFIX_CACHE_H_
