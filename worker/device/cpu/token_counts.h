#ifndef QUIRE_WORKER_DEVICE_CPU_TOKEN_COUNTS_H_
#define QUIRE_WORKER_DEVICE_CPU_TOKEN_COUNTS_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "scheduler/sampling_params.h"

namespace quire {

// Which tokens a sequence holds, and how often each was put out: what penalties are computed from.
// Not thread safe for writing.
class TokenCounts {
 public:
  struct Entry {
    TokenId token = 0;
    uint32_t num_output = 0;  // 0: in the prompt alone
  };

  void Clear() {
    entries_.clear();
    index_.clear();
  }
  void AddPrompt(TokenId token) { EntryOf(token); }
  void AddOutput(TokenId token) { ++EntryOf(token).num_output; }

  // Each token once, in order of its first appearance.
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  Entry& EntryOf(TokenId token) {
    const auto [at, is_new] = index_.try_emplace(token, static_cast<uint32_t>(entries_.size()));
    if (is_new) entries_.push_back({token, 0});
    return entries_[at->second];
  }

  std::vector<Entry> entries_;
  absl::flat_hash_map<TokenId, uint32_t> index_;  // into entries_; never iterated
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_TOKEN_COUNTS_H_
