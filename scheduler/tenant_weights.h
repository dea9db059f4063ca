#ifndef QUIRE_SCHEDULER_TENANT_WEIGHTS_H_
#define QUIRE_SCHEDULER_TENANT_WEIGHTS_H_

#include <cstdint>
#include <map>
#include <string>

namespace quire {

// How much of a worker tenants are to get, in proportion to each other: one of weight 3 gets three
// times what one of weight 1 gets, while both want more than there is. The empty name is that of
// the requests that name no tenant: they are one tenant together.
struct TenantWeights {
  static constexpr uint32_t kMost = 1000;
  std::map<std::string, uint32_t> by_tenant;  // each 1 to kMost; others have weight 1

  uint32_t Of(const std::string& tenant) const {
    const auto found = by_tenant.find(tenant);
    return found == by_tenant.end() ? 1 : found->second;
  }
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_TENANT_WEIGHTS_H_
