#include "scheduler/placement/prefix_affinity.h"

namespace quire {

std::vector<PrefixHash> PrefixAffinity::Chunks(const PrefixHashKey& key, std::string_view salt,
                                               std::span<const TokenId> prompt) {
  std::vector<PrefixHash> chunks;
  PrefixHash parent = HashSalt(key, salt);
  for (size_t begin = 0; begin + kChunkTokens <= prompt.size(); begin += kChunkTokens) {
    parent = HashBlock(key, parent, prompt.subspan(begin, kChunkTokens));
    chunks.push_back(parent);
  }
  return chunks;
}

uint32_t PrefixAffinity::MatchedTokens(std::span<const PrefixHash> chunks,
                                       WorkerNumber worker) const {
  uint32_t matched = 0;
  for (const PrefixHash& chunk : chunks) {
    if (!entries_.contains(Key{chunk, worker})) break;
    matched += kChunkTokens;
  }
  return matched;
}

void PrefixAffinity::Record(std::span<const PrefixHash> chunks, WorkerNumber worker) {
  // The last chunk is touched first, so that a prefix is forgotten from its end.
  for (auto chunk = chunks.rbegin(); chunk != chunks.rend(); ++chunk) {
    const Key key{*chunk, worker};
    if (const auto found = entries_.find(key); found != entries_.end()) {
      by_use_.splice(by_use_.end(), by_use_, found->second);
      continue;
    }
    if (entries_.size() >= max_chunks_) {
      entries_.erase(by_use_.front());
      by_use_.pop_front();
    }
    entries_[key] = by_use_.insert(by_use_.end(), key);
  }
}

}  // namespace quire
