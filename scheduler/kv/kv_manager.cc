#include "scheduler/kv/kv_manager.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "scheduler/check.h"

namespace quire {

KvManager::KvManager(const Options& options)
    : options_(options),
      cache_(options.num_blocks, options.block_size),
      pool_(options.num_blocks, &cache_) {}

uint32_t KvManager::AdoptPrefix(std::string_view salt, std::span<const TokenId> tokens,
                                uint32_t max_tokens, BlockTable* table) {
  QUIRE_CHECK(table->leases_.empty());
  if (!options_.enable_prefix_caching) return 0;
  const uint32_t size = options_.block_size;
  const uint32_t limit = std::min<uint32_t>(max_tokens, tokens.size());
  table->last_hash_ = HashSalt(options_.hash_key, salt);
  for (uint32_t begin = 0; begin + size <= limit; begin += size) {
    const auto content = tokens.subspan(begin, size);
    const PrefixHash hash = HashBlock(options_.hash_key, table->last_hash_, content);
    const std::optional<BlockId> block = cache_.Find(hash, table->last_hash_, content);
    if (!block.has_value()) break;
    table->leases_.push_back(pool_.Lease(*block));
    ++table->num_hashed_;
    table->last_hash_ = hash;
  }
  return table->num_hashed_ * size;
}

PrefixEnd KvManager::EndOfPrefix(const BlockTable& table, uint32_t max_tokens) const {
  return {table.last_hash_, table.num_hashed_ * options_.block_size, max_tokens};
}

bool KvManager::CanExtend(const PrefixEnd& end, std::span<const TokenId> tokens) const {
  const uint32_t limit = std::min<uint32_t>(end.max_tokens, tokens.size());
  if (!options_.enable_prefix_caching || end.num_tokens + options_.block_size > limit) return false;
  const auto content = tokens.subspan(end.num_tokens, options_.block_size);
  return cache_.Find(HashBlock(options_.hash_key, end.hash, content), end.hash, content)
      .has_value();
}

void KvManager::ShareBlocks(std::string_view salt, std::span<const TokenId> tokens,
                            const BlockTable& source, uint32_t num_blocks, BlockTable* table) {
  QUIRE_CHECK(table->leases_.empty() && num_blocks <= source.num_blocks());
  table->last_hash_ = HashSalt(options_.hash_key, salt);
  for (uint32_t i = 0; i < num_blocks; ++i) {
    table->leases_.push_back(source.leases_[i].Share());
    if (!options_.enable_prefix_caching) continue;
    const auto content = tokens.subspan(size_t{i} * options_.block_size, options_.block_size);
    table->last_hash_ = HashBlock(options_.hash_key, table->last_hash_, content);
    ++table->num_hashed_;
  }
}

bool KvManager::Reserve(uint32_t num_tokens, BlockTable* table) {
  const uint32_t had = table->num_blocks();
  if (num_tokens <= uint64_t{had} * options_.block_size) return true;
  const uint32_t needed = BlocksFor(num_tokens);
  if (needed - had > pool_.num_available()) return false;
  while (table->num_blocks() < needed) {
    std::optional<BlockLease> lease = pool_.Allocate();
    QUIRE_CHECK(lease.has_value());
    table->leases_.push_back(std::move(*lease));
  }
  return true;
}

void KvManager::Commit(std::span<const TokenId> tokens, uint32_t num_computed, BlockTable* table) {
  if (!options_.enable_prefix_caching) return;
  const uint32_t size = options_.block_size;
  QUIRE_CHECK(num_computed <= tokens.size() && num_computed <= table->num_blocks() * size);
  while ((table->num_hashed_ + 1) * size <= num_computed) {
    const BlockId block = table->block(table->num_hashed_);
    const auto content = tokens.subspan(size_t{table->num_hashed_} * size, size);
    const PrefixHash hash = HashBlock(options_.hash_key, table->last_hash_, content);
    // Another sequence may have computed the same block meanwhile: the first one stays findable.
    if (cache_.Insert(block, hash, table->last_hash_, content)) pool_.Keep(block);
    ++table->num_hashed_;
    table->last_hash_ = hash;
  }
}

}  // namespace quire
