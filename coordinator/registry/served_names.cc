#include "coordinator/registry/served_names.h"

#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/rpc_status.h"

namespace quire {
namespace {

// Names for an error, which must fit a gRPC trailer.
std::string List(const std::set<std::string>& names) {
  constexpr size_t kMost = 16;
  if (names.empty()) return "none";
  const auto end = names.size() <= kMost ? names.end() : std::next(names.begin(), kMost);
  std::string list = absl::StrJoin(names.begin(), end, ", ");
  if (names.size() > kMost) absl::StrAppend(&list, " and ", names.size() - kMost, " more");
  return list;
}

}  // namespace

absl::StatusOr<std::string> FindModel(const std::vector<WorkerView>& views,
                                      const std::string& name) {
  std::set<std::string> known;
  std::set<std::string> served;
  for (const WorkerView& view : views) {
    if (view.info.model().empty()) continue;
    known.insert(view.info.model());
    if (view.model != nullptr) served.insert(view.info.model());
  }
  if (known.empty()) {
    return NoWorkerNow(name.empty() ? "any model" : absl::StrCat("\"", name, "\""));
  }
  if (!name.empty()) {
    if (!known.contains(name)) return NoSuchName("model", name, known);
    return name;
  }
  const std::set<std::string>& candidates = served.empty() ? known : served;
  if (candidates.size() == 1) return *candidates.begin();
  return WithField(absl::InvalidArgumentError(
                       absl::StrCat("model is not set and several are served: ", List(candidates))),
                   "model");
}

absl::Status NoSuchName(const char* field, const std::string& value,
                        const std::set<std::string>& known) {
  return WithField(absl::NotFoundError(absl::StrCat("there is no ", field, " \"", value,
                                                    "\"; there is: ", List(known))),
                   field);
}

absl::Status NoWorkerNow(absl::string_view what) {
  return WithRetryDelay(absl::UnavailableError(absl::StrCat("no worker serves ", what, " now")),
                        kRetryDelayMs);
}

}  // namespace quire
