#ifndef QUIRE_COORDINATOR_REGISTRY_SERVED_NAMES_H_
#define QUIRE_COORDINATOR_REGISTRY_SERVED_NAMES_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/worker_client/worker_link.h"

// What a client's names mean among the workers, and the errors of those that mean nothing.
namespace quire {

// How long a client that found no worker, or no room, should wait.
inline constexpr uint32_t kRetryDelayMs = 500;

// The name of the model that a client means by `name`. Empty means the only one: of the models that
// a connected worker has or, while there is none, of those that some worker had.
// NOT_FOUND, naming those that exist; INVALID_ARGUMENT where several are and none is named;
// UNAVAILABLE while no model is known. That it exists does not say that it can be served now.
absl::StatusOr<std::string> FindModel(const std::vector<WorkerView>& views,
                                      const std::string& name);

// NOT_FOUND: nothing has the name `value`, a few of the `known` ones are named.
absl::Status NoSuchName(const char* field, const std::string& value,
                        const std::set<std::string>& known);

// UNAVAILABLE, to be tried again.
absl::Status NoWorkerNow(absl::string_view what);

}  // namespace quire

#endif  // QUIRE_COORDINATOR_REGISTRY_SERVED_NAMES_H_
