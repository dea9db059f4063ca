#ifndef QUIRE_SCHEDULER_KV_PREFIX_HASH_H_
#define QUIRE_SCHEDULER_KV_PREFIX_HASH_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "scheduler/sampling_params.h"

namespace quire {

// Names a block's content together with everything before it: 128 bits of a keyed hash over the
// hash of the block before it (or the salt's, for a first block) and its token ids.
struct PrefixHash {
  uint64_t low = 0;
  uint64_t high = 0;
  friend bool operator==(const PrefixHash&, const PrefixHash&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const PrefixHash& hash) {
    return H::combine(std::move(h), hash.low, hash.high);
  }
};

// Secret of a process, so that no client can construct two prompts with one hash.
using PrefixHashKey = std::array<uint64_t, 2>;

// The parent of a sequence's first block.
PrefixHash HashSalt(const PrefixHashKey& key, std::string_view salt);
PrefixHash HashBlock(const PrefixHashKey& key, const PrefixHash& parent,
                     std::span<const TokenId> tokens);

// SipHash-2-4 with 128 bits of output (Aumasson, Bernstein: "SipHash: a fast short-input PRF",
// 2012, and the 128-bit variant of its reference implementation).
PrefixHash SipHash128(const PrefixHashKey& key, const void* data, size_t num_bytes);

}  // namespace quire

#endif  // QUIRE_SCHEDULER_KV_PREFIX_HASH_H_
