#ifndef QUIRE_SCHEDULER_KV_KV_MANAGER_H_
#define QUIRE_SCHEDULER_KV_KV_MANAGER_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "scheduler/kv/block_pool.h"
#include "scheduler/kv/prefix_cache.h"

namespace quire {

// The blocks of one sequence: block(i) holds positions [i * block_size, (i + 1) * block_size).
// Filled and emptied by KvManager alone; destroying it gives the blocks back.
class BlockTable {
 public:
  BlockTable() = default;
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;
  ~BlockTable() { Clear(); }

  uint32_t num_blocks() const { return static_cast<uint32_t>(leases_.size()); }
  BlockId block(uint32_t i) const { return leases_[i].block(); }

 private:
  friend class KvManager;
  // Last block first: the end of a chain becomes the least recently used and is evicted first, so
  // that every cached block can still be reached from its start.
  void Clear() {
    while (!leases_.empty()) leases_.pop_back();
    num_hashed_ = 0;
  }

  std::vector<BlockLease> leases_;
  uint32_t num_hashed_ = 0;  // leading blocks that the prefix cache has seen
  PrefixHash last_hash_;     // of the last of them, or of the salt
};

// The end of the cached prefix that a sequence was found to have.
struct PrefixEnd {
  PrefixHash hash;          // of its last block, or of the salt
  uint32_t num_tokens = 0;  // its length
  uint32_t max_tokens = 0;  // what it could have at the most
};

// Who owns which block: gives sequences room for their tokens, shares what prefixes have in common,
// and takes blocks back. This is where a block is freed: Release, or the end of a BlockTable.
// Not thread safe: the engine loop owns it.
class KvManager {
 public:
  struct Options {
    uint32_t num_blocks = 0;
    uint32_t block_size = 16;  // tokens
    bool enable_prefix_caching = true;
    PrefixHashKey hash_key{};
  };
  explicit KvManager(const Options& options);

  // Starts an empty table with the longest cached prefix of `tokens`, at most max_tokens long.
  // Returns its length in tokens, a multiple of the block size.
  uint32_t AdoptPrefix(std::string_view salt, std::span<const TokenId> tokens, uint32_t max_tokens,
                       BlockTable* table);

  // Where AdoptPrefix ended. REQUIRES: AdoptPrefix started the table, with this max_tokens, and
  // nothing was added since.
  PrefixEnd EndOfPrefix(const BlockTable& table, uint32_t max_tokens) const;
  // Whether AdoptPrefix would go beyond that end now. At the price of one block, where AdoptPrefix
  // visits them all.
  bool CanExtend(const PrefixEnd& end, std::span<const TokenId> tokens) const;

  // Starts an empty table with the first `num_blocks` blocks of another one, whose tokens and salt
  // are the same so far.
  void ShareBlocks(std::string_view salt, std::span<const TokenId> tokens, const BlockTable& source,
                   uint32_t num_blocks, BlockTable* table);

  // Extends the table to hold `num_tokens` tokens in all. False, with the table as it was, when
  // there are not enough blocks. REQUIRES: the table was started.
  [[nodiscard]] bool Reserve(uint32_t num_tokens, BlockTable* table);

  // Makes the full blocks of the first num_computed tokens findable. Their content must have been
  // computed, from finite numbers.
  void Commit(std::span<const TokenId> tokens, uint32_t num_computed, BlockTable* table);

  // Gives every block of the table back. Findable ones stay cached until they are evicted.
  void Release(BlockTable* table) { table->Clear(); }

  uint32_t BlocksFor(uint32_t num_tokens) const {
    return num_tokens == 0 ? 0 : (num_tokens - 1) / options_.block_size + 1;
  }
  // Computed tokens from which Commit has something new to do.
  uint32_t NextCommit(const BlockTable& table) const {
    return (table.num_hashed_ + 1) * options_.block_size;
  }
  uint32_t block_size() const { return options_.block_size; }
  const BlockPool& pool() const { return pool_; }

 private:
  const Options options_;
  PrefixCache cache_;  // before the pool, which tells it of evictions
  BlockPool pool_;
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_KV_KV_MANAGER_H_
