#include "coordinator/registry/placer.h"

#include <algorithm>
#include <iterator>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/rpc_status.h"
#include "scheduler/placement/placement_policy.h"

namespace quire {
namespace {

constexpr size_t kMaxAffinityChunks = 1 << 18;

PrefixHashKey RandomKey() {
  std::random_device device;
  const auto word = [&device] { return uint64_t{device()} << 32 | device(); };
  return {word(), word()};
}

// Names for an error, which must fit a gRPC trailer.
std::string List(const std::set<std::string>& names) {
  constexpr size_t kMost = 16;
  if (names.empty()) return "none";
  const auto end = names.size() <= kMost ? names.end() : std::next(names.begin(), kMost);
  std::string list = absl::StrJoin(names.begin(), end, ", ");
  if (names.size() > kMost) absl::StrAppend(&list, " and ", names.size() - kMost, " more");
  return list;
}

// The error of a name that nothing has.
absl::Status NoSuch(const char* field, const std::string& value,
                    const std::set<std::string>& known) {
  return WithField(absl::NotFoundError(absl::StrCat("there is no ", field, " \"", value,
                                                    "\"; there is: ", List(known))),
                   field);
}

absl::Status NoWorkerNow(absl::string_view what) {
  return WithRetryDelay(absl::UnavailableError(absl::StrCat("no worker serves ", what, " now")),
                        kRetryDelayMs);
}

}  // namespace

Placer::Placer(WorkerRegistry* registry)
    : registry_(registry), affinity_(RandomKey(), kMaxAffinityChunks) {}

absl::StatusOr<Placer::Target> Placer::Resolve(const std::string& model, v1::Engine engine,
                                               const std::string& worker) const {
  const std::vector<WorkerView> views = registry_->Views();
  std::set<std::string> models;
  std::set<std::string> workers;
  for (const WorkerView& view : views) {
    if (!view.info.model().empty()) models.insert(view.info.model());
    if (!view.info.name().empty()) workers.insert(view.info.name());
  }
  if (models.empty())
    return NoWorkerNow(model.empty() ? "any model" : absl::StrCat("\"", model, "\""));
  if (!model.empty() && !models.contains(model)) return NoSuch("model", model, models);
  if (!worker.empty() && !workers.contains(worker)) return NoSuch("worker", worker, workers);
  if (model.empty() && worker.empty() && models.size() > 1) {
    return WithField(absl::InvalidArgumentError(
                         absl::StrCat("model is not set and several are served: ", List(models))),
                     "model");
  }
  const bool engine_is_set = engine != v1::ENGINE_UNSPECIFIED;
  if (!engine_is_set) engine = v1::PAGED;

  Target target;
  std::set<std::string> engines;
  bool exists = false;
  for (const WorkerView& view : views) {
    if (!model.empty() && view.info.model() != model) continue;
    if (!worker.empty() && view.info.name() != worker) continue;
    if (view.info.name().empty()) continue;
    engines.insert(v1::Engine_Name(view.info.engine()));
    // A worker that is named brings its engine along.
    if (!worker.empty() && !engine_is_set) engine = view.info.engine();
    if (view.info.engine() != engine) continue;
    exists = true;
    if (view.model == nullptr || view.state == v1::WorkerLoad::DEAD) continue;
    target.model = view.model;
    target.context_length = target.context_length == 0
                                ? view.info.context_length()
                                : std::min(target.context_length, view.info.context_length());
    target.vocabulary_size = view.info.vocabulary_size();
  }
  if (!exists) {
    if (engines.empty()) return NoSuch("worker", worker, workers);  // it serves another model
    return NoSuch("engine", v1::Engine_Name(engine), engines);
  }
  target.engine = engine;
  if (target.model == nullptr) {
    return NoWorkerNow(absl::StrCat(model.empty() ? *models.begin() : model, " with the engine ",
                                    v1::Engine_Name(engine)));
  }
  return target;
}

absl::StatusOr<std::shared_ptr<WorkerLink>> Placer::Place(const Placement& placement) {
  std::vector<PlacementCandidate> candidates;
  std::string why;
  bool was_refused = false;
  MutexLock lock(mutex_);
  const std::vector<PrefixHash> chunks = affinity_.Chunks(
      absl::StrCat(placement.model, "\n", placement.cache_salt), *placement.prompt);
  for (const WorkerView& view : registry_->Views()) {
    if (view.info.model() != placement.model || view.info.engine() != placement.engine) continue;
    if (!placement.worker.empty() && view.info.name() != placement.worker) continue;
    if (view.state != v1::WorkerLoad::READY) {
      why = absl::StrCat(": ", view.info.name(), " is ", v1::WorkerLoad::State_Name(view.state),
                         view.why.empty() ? "" : ", ", view.why);
      continue;
    }
    if (placement.refused.contains(view.number)) {
      was_refused = true;
      continue;
    }
    candidates.push_back({view.snapshot, affinity_.MatchedTokens(chunks, view.number)});
  }
  const absl::Status full = WithRetryDelay(
      absl::ResourceExhaustedError("every queue is full: try again later"), kRetryDelayMs);
  if (candidates.empty()) {
    if (was_refused) return full;
    return NoWorkerNow(
        absl::StrCat(placement.model, " with the engine ", v1::Engine_Name(placement.engine), why));
  }
  PlacementRequest request;
  request.prompt_tokens = static_cast<uint32_t>(placement.prompt->size());
  request.max_new_tokens = placement.max_new_tokens;
  request.num_choices = placement.num_choices;
  const PlacementDecision decision = PlaceRequest(request, candidates);
  switch (decision.outcome) {
    case PlacementDecision::Outcome::kFull:
      return full;
    case PlacementDecision::Outcome::kNeverFits:
      return WithField(absl::FailedPreconditionError(absl::StrCat(
                           "the request needs ", decision.blocks_needed, " KV blocks (",
                           request.prompt_tokens, " prompt + ", request.max_new_tokens,
                           " new tokens), the whole pool has ", decision.blocks_had)),
                       "max_new_tokens");
    case PlacementDecision::Outcome::kPlaced:
      break;
  }
  std::shared_ptr<WorkerLink> link = registry_->Find(decision.worker);
  if (link == nullptr) return NoWorkerNow(placement.model);
  affinity_.Record(chunks, decision.worker);
  return link;
}

}  // namespace quire
