#ifndef QUIRE_COORDINATOR_STREAM_TENANT_SHARES_H_
#define QUIRE_COORDINATOR_STREAM_TENANT_SHARES_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace quire {

// What each tenant holds of one limit: of places, or of bytes. Not thread safe.
class TenantShares {
 public:
  // False, and nothing is taken: all would hold more than `limit`, or this tenant more than `share`
  // (above 0 to 1) of it.
  [[nodiscard]] bool Take(const std::string& tenant, size_t amount, size_t limit, double share) {
    const auto own_limit = static_cast<size_t>(std::ceil(static_cast<double>(limit) * share));
    const size_t own = held_by(tenant);
    if (amount > limit - std::min(limit, total_) || own + amount > own_limit) return false;
    if (amount == 0) return true;
    total_ += amount;
    held_[tenant] = own + amount;
    return true;
  }
  // REQUIRES: it was taken.
  void Give(const std::string& tenant, size_t amount) {
    if (amount == 0) return;
    total_ -= amount;
    const auto held = held_.find(tenant);
    if ((held->second -= amount) == 0) held_.erase(held);
  }

  size_t total() const { return total_; }
  size_t held_by(const std::string& tenant) const {
    const auto held = held_.find(tenant);
    return held == held_.end() ? 0 : held->second;
  }

 private:
  size_t total_ = 0;
  absl::flat_hash_map<std::string, size_t> held_;  // by tenant; none is 0
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_STREAM_TENANT_SHARES_H_
