#ifndef QUIRE_SCHEDULER_KV_BLOCK_POOL_H_
#define QUIRE_SCHEDULER_KV_BLOCK_POOL_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "scheduler/batch/step_plan.h"

namespace quire {

class BlockPool;

// Holds a block. Move-only: dropping the last lease of a block gives it back, and there is no other
// way to do so.
class BlockLease {
 public:
  BlockLease(BlockLease&& other) noexcept : pool_(other.pool_), block_(other.block_) {
    other.pool_ = nullptr;
  }
  BlockLease& operator=(BlockLease&& other) noexcept;
  BlockLease(const BlockLease&) = delete;
  BlockLease& operator=(const BlockLease&) = delete;
  ~BlockLease();

  BlockId block() const { return block_; }
  // Another lease on the same block.
  BlockLease Share() const;

 private:
  friend class BlockPool;
  BlockLease(BlockPool* pool, BlockId block) : pool_(pool), block_(block) {}
  BlockPool* pool_;  // null when moved from
  BlockId block_;
};

// Hears that a block's content is about to be lost. The prefix cache forgets it then.
class EvictionListener {
 public:
  virtual ~EvictionListener() = default;
  virtual void OnEvict(BlockId block) = 0;
};

// Hands out the KV blocks of one worker and takes them back.
//
// A block is free, leased (one or more leases hold it), or cached (no lease, but kept because its
// content can be found again). num_free() + num_cached() + num_leased() == num_blocks() always.
// Owns integers only: the memory behind a block id belongs to the executor.
// Every operation is O(1). Not thread safe: the engine loop owns it. Must outlive its leases.
class BlockPool {
 public:
  // REQUIRES: num_blocks > 0; `listener` outlives the pool, or is null when nothing is ever kept.
  BlockPool(uint32_t num_blocks, EvictionListener* listener);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  // REQUIRES: no lease is left.
  ~BlockPool();

  // A block that no one else holds, evicting the least recently used cached one if none is free.
  // Empty when every block is leased.
  std::optional<BlockLease> Allocate();

  // A lease on a block that is leased or cached. REQUIRES: it is not free.
  BlockLease Lease(BlockId block);

  // From now on the block becomes cached, instead of free, when its last lease goes; until it is
  // evicted. REQUIRES: it is leased.
  void Keep(BlockId block);

  uint32_t num_blocks() const { return static_cast<uint32_t>(blocks_.size()); }
  uint32_t num_free() const { return static_cast<uint32_t>(free_.size()); }
  uint32_t num_cached() const { return num_cached_; }
  uint32_t num_leased() const { return num_blocks() - num_free() - num_cached(); }
  // What Allocate can give before it fails.
  uint32_t num_available() const { return num_free() + num_cached(); }
  uint32_t num_leases(BlockId block) const { return blocks_[block].leases; }

 private:
  friend class BlockLease;
  static constexpr BlockId kNone = ~BlockId{0};

  struct Block {
    uint32_t leases = 0;
    bool keep = false;
    // Neighbours in the list of cached blocks, least recently used first.
    BlockId older = kNone;
    BlockId newer = kNone;
  };

  void Release(BlockId block);
  void PushCached(BlockId block);
  void RemoveCached(BlockId block);

  std::vector<Block> blocks_;
  std::vector<BlockId> free_;  // a stack
  EvictionListener* listener_;
  BlockId oldest_ = kNone;
  BlockId newest_ = kNone;
  uint32_t num_cached_ = 0;
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_KV_BLOCK_POOL_H_
