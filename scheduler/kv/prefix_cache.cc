#include "scheduler/kv/prefix_cache.h"

#include <algorithm>

#include "scheduler/check.h"

namespace quire {

PrefixCache::PrefixCache(uint32_t num_blocks, uint32_t block_size)
    : block_size_(block_size), entries_(num_blocks), tokens_(size_t{num_blocks} * block_size) {
  QUIRE_CHECK(block_size > 0);
  blocks_.reserve(num_blocks);  // a step must not wait for the table to grow
}

std::optional<BlockId> PrefixCache::Find(const PrefixHash& hash, const PrefixHash& parent,
                                         std::span<const TokenId> tokens) const {
  const auto found = blocks_.find(hash);
  if (found == blocks_.end()) return std::nullopt;
  const BlockId block = found->second;
  const TokenId* held = &tokens_[size_t{block} * block_size_];
  if (entries_[block].parent != parent || tokens.size() != block_size_ ||
      !std::equal(tokens.begin(), tokens.end(), held)) {
    return std::nullopt;
  }
  return block;
}

bool PrefixCache::Insert(BlockId block, const PrefixHash& hash, const PrefixHash& parent,
                         std::span<const TokenId> tokens) {
  QUIRE_CHECK(tokens.size() == block_size_);
  if (!blocks_.try_emplace(hash, block).second) return false;
  entries_[block] = {hash, parent};
  std::copy(tokens.begin(), tokens.end(), &tokens_[size_t{block} * block_size_]);
  return true;
}

void PrefixCache::OnEvict(BlockId block) {
  const auto found = blocks_.find(entries_[block].hash);
  QUIRE_CHECK(found != blocks_.end() && found->second == block);
  blocks_.erase(found);
}

}  // namespace quire
