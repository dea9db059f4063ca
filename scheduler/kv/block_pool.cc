#include "scheduler/kv/block_pool.h"

#include "scheduler/check.h"

namespace quire {

BlockLease& BlockLease::operator=(BlockLease&& other) noexcept {
  if (this != &other) {
    if (pool_ != nullptr) pool_->Release(block_);
    pool_ = other.pool_;
    block_ = other.block_;
    other.pool_ = nullptr;
  }
  return *this;
}

BlockLease::~BlockLease() {
  if (pool_ != nullptr) pool_->Release(block_);
}

BlockLease BlockLease::Share() const {
  QUIRE_CHECK(pool_ != nullptr);
  return pool_->Lease(block_);
}

BlockPool::BlockPool(uint32_t num_blocks, EvictionListener* listener)
    : blocks_(num_blocks), listener_(listener) {
  QUIRE_CHECK(num_blocks > 0);
  free_.reserve(num_blocks);
  for (BlockId block = num_blocks; block-- > 0;) free_.push_back(block);
}

BlockPool::~BlockPool() { QUIRE_CHECK(num_leased() == 0); }

std::optional<BlockLease> BlockPool::Allocate() {
  BlockId block;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (oldest_ != kNone) {
    block = oldest_;
    RemoveCached(block);
    blocks_[block].keep = false;
    listener_->OnEvict(block);
  } else {
    return std::nullopt;
  }
  blocks_[block].leases = 1;
  return BlockLease(this, block);
}

BlockLease BlockPool::Lease(BlockId block) {
  Block& entry = blocks_[block];
  QUIRE_CHECK(entry.leases > 0 || entry.keep);
  if (entry.leases == 0) RemoveCached(block);
  ++entry.leases;
  return BlockLease(this, block);
}

void BlockPool::Keep(BlockId block) {
  QUIRE_CHECK(blocks_[block].leases > 0 && listener_ != nullptr);
  blocks_[block].keep = true;
}

void BlockPool::Release(BlockId block) {
  Block& entry = blocks_[block];
  QUIRE_CHECK(entry.leases > 0);
  if (--entry.leases > 0) return;
  if (entry.keep) {
    PushCached(block);
  } else {
    free_.push_back(block);
  }
}

void BlockPool::PushCached(BlockId block) {
  Block& entry = blocks_[block];
  entry.older = newest_;
  entry.newer = kNone;
  (newest_ == kNone ? oldest_ : blocks_[newest_].newer) = block;
  newest_ = block;
  ++num_cached_;
}

void BlockPool::RemoveCached(BlockId block) {
  Block& entry = blocks_[block];
  (entry.older == kNone ? oldest_ : blocks_[entry.older].newer) = entry.newer;
  (entry.newer == kNone ? newest_ : blocks_[entry.newer].older) = entry.older;
  entry.older = entry.newer = kNone;
  --num_cached_;
}

}  // namespace quire
