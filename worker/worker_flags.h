#ifndef QUIRE_WORKER_WORKER_FLAGS_H_
#define QUIRE_WORKER_WORKER_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/server_flags.h"
#include "worker/engine_factory.h"

namespace quire {

// The settings of quire-worker, with their defaults.
struct WorkerFlags : ServerFlags {
  EngineSettings engine;
  std::vector<std::string> tenant_weights;  // NAME=WEIGHT; TenantWeightsOf reads them
  std::vector<std::string> join;
  uint32_t etcd_lease_ttl_s = 10;
  std::string worker_name;
  std::string advertise_address;
  std::string served_model_name;
  double drain_timeout_s = 30;
  double orphan_grace_s = 10;
  bool inspect = false;
};

// Declares every flag, and the range of those that have one.
void DeclareFlags(FlagSet& flags, WorkerFlags* f);

// What the flags' ranges do not tell: addresses that are none, and flags that need each other. The
// error names the flag. What the engine does with its settings is BuildEngine's to check.
absl::Status CheckFlags(const WorkerFlags& flags);

// Of --tenant-weight. INVALID_ARGUMENT: one is not NAME=WEIGHT, or names a tenant twice.
absl::StatusOr<TenantWeights> TenantWeightsOf(const WorkerFlags& flags);

}  // namespace quire

#endif  // QUIRE_WORKER_WORKER_FLAGS_H_
