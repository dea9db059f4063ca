#include "scheduler/batch/queue_gate.h"

#include <utility>

#include "scheduler/check.h"

namespace quire {

QueueGate::QueueGate(Options options)
    : options_(std::move(options)),
      num_places_(uint64_t{options_.max_num_seqs} + options_.max_queue),
      num_reserved_(options_.max_queue / 5) {}

bool QueueGate::HasRoom(const std::string& tenant, uint64_t num_held, uint32_t num_wanted) const {
  if (num_places_ == 0) return true;
  const uint64_t after = num_taken_ + num_wanted;
  if (after > num_places_) return false;
  if (num_places_ - after >= num_reserved_) return true;
  const uint64_t own = options_.weights.Of(tenant);
  const uint64_t all = weight_ + (num_held == 0 ? own : 0) + 1;
  return (num_held + num_wanted) * all <= num_places_ * own;
}

bool QueueGate::Enter(const std::string& tenant, uint32_t num_sequences) {
  const auto found = held_.find(tenant);
  const uint64_t held = found == held_.end() ? 0 : found->second;
  if (!HasRoom(tenant, held, num_sequences)) return false;
  if (num_sequences == 0) return true;
  if (held == 0) weight_ += options_.weights.Of(tenant);
  held_[tenant] = held + num_sequences;
  num_taken_ += num_sequences;
  return true;
}

void QueueGate::Leave(const std::string& tenant, uint32_t num_sequences, Micros now) {
  if (num_sequences == 0) return;
  const auto found = held_.find(tenant);
  QUIRE_CHECK(found != held_.end() && found->second >= num_sequences);
  num_taken_ -= num_sequences;
  rate_.OnFreed(now, num_sequences);
  found->second -= num_sequences;
  if (found->second > 0) return;
  weight_ -= options_.weights.Of(tenant);
  held_.erase(found);
}

std::vector<std::string> QueueGate::TenantsOverShare(size_t most) const {
  std::vector<std::string> over;
  if (num_places_ == 0 || num_places_ - num_taken_ > num_reserved_) return over;
  for (const auto& [tenant, held] : held_) {
    if (over.size() == most) break;
    if (!HasRoom(tenant, held, 1)) over.push_back(tenant);
  }
  return over;
}

}  // namespace quire
