#include "coordinator/registry/placer.h"

#include <algorithm>
#include <iterator>
#include <random>

#include "absl/strings/str_cat.h"
#include "common/rpc_status.h"

namespace quire {
namespace {

constexpr size_t kMaxAffinityChunks = 1 << 18;

PrefixHashKey RandomKey() {
  std::random_device device;
  const auto word = [&device] { return uint64_t{device()} << 32 | device(); };
  return {word(), word()};
}

// Whether one of these workers has as many blocks as the request needs.
bool CouldFit(const PlacementRequest& request, const std::vector<PlacementCandidate>& candidates) {
  return !candidates.empty() &&
         PlaceRequest(request, candidates).outcome != PlacementDecision::Outcome::kNeverFits;
}

// One that is to run alone goes where nothing runs, whatever prefix is cached elsewhere.
void PreferIdle(const PlacementRequest& request, std::vector<PlacementCandidate>* candidates) {
  std::vector<PlacementCandidate> idle;
  std::copy_if(candidates->begin(), candidates->end(), std::back_inserter(idle),
               [](const PlacementCandidate& candidate) { return candidate.worker.load() == 0; });
  if (CouldFit(request, idle)) candidates->swap(idle);
}

bool IsOverShare(const WorkerView& view, const std::string& tenant) {
  const auto& over = view.load.tenants_over_share();
  return std::find(over.begin(), over.end(), tenant) != over.end();
}

}  // namespace

Placer::Placer(WorkerRegistry* registry, const Timers* timers, int64_t ask_micros)
    : registry_(registry),
      timers_(timers),
      ask_micros_(ask_micros),
      affinity_key_(RandomKey()),
      affinity_(kMaxAffinityChunks) {}

absl::StatusOr<Placer::Target> Placer::Resolve(const std::string& model, v1::Engine engine,
                                               const std::string& worker) const {
  const std::vector<WorkerView> views = registry_->Views();
  // A worker that is named brings its model and its engine along.
  std::string served = model;
  if (!model.empty() || worker.empty()) {
    auto found = FindModel(views, model);
    if (!found.ok()) return found.status();
    served = *std::move(found);
  }
  std::set<std::string> workers;
  for (const WorkerView& view : views) {
    if (!view.info.name().empty()) workers.insert(view.info.name());
  }
  if (workers.empty()) return NoWorkerNow("any model");
  if (!worker.empty() && !workers.contains(worker)) return NoSuchName("worker", worker, workers);
  const bool engine_is_set = engine != v1::ENGINE_UNSPECIFIED;
  if (!engine_is_set) engine = v1::PAGED;

  Target target;
  std::set<std::string> engines;
  bool exists = false;
  for (const WorkerView& view : views) {
    if (view.info.name().empty()) continue;
    if (!served.empty() && view.info.model() != served) continue;
    if (!worker.empty() && view.info.name() != worker) continue;
    engines.insert(v1::Engine_Name(view.info.engine()));
    if (!worker.empty() && !engine_is_set) engine = view.info.engine();
    if (view.info.engine() != engine) continue;
    exists = true;
    served = view.info.model();
    if (view.model == nullptr || view.state == v1::WorkerLoad::DEAD) continue;
    target.model = view.model;
    target.context_length = target.context_length == 0
                                ? view.info.context_length()
                                : std::min(target.context_length, view.info.context_length());
    target.most_context_length = std::max(target.most_context_length, view.info.context_length());
    target.vocabulary_size = view.info.vocabulary_size();
  }
  if (!exists) {
    if (engines.empty()) return NoSuchName("worker", worker, workers);  // it serves another model
    return NoSuchName("engine", v1::Engine_Name(engine), engines);
  }
  target.engine = engine;
  if (target.model == nullptr) {
    return NoWorkerNow(absl::StrCat(served, " with the engine ", v1::Engine_Name(engine)));
  }
  return target;
}

absl::Status Placer::EveryQueueIsFull(const std::vector<const WorkerView*>& workers, bool is_told) {
  const auto full = absl::ResourceExhaustedError("every queue is full: try again later");
  if (!is_told) return full;
  // A place that becomes free anywhere is one.
  double ended_per_s = 0;
  uint64_t num_here = 0;
  for (const WorkerView* view : workers) {
    ended_per_s += std::max(0.0, view->load.ended_per_s());
    num_here += view->snapshot.load();
  }
  const int64_t now = timers_->Now();
  refused_at_.store(now, std::memory_order_relaxed);
  return WithRetryDelay(full, retries_.NextMs(now, ended_per_s, num_here));
}

absl::Status Placer::CheckRoom(const v1::GenerateRequest& request) {
  if (timers_->Now() - refused_at_.load(std::memory_order_relaxed) > ask_micros_) {
    return absl::OkStatus();
  }
  const uint32_t num_choices = request.sampling().has_n() ? request.sampling().n() : 1;
  const v1::Engine engine =
      request.engine() == v1::ENGINE_UNSPECIFIED ? v1::PAGED : request.engine();
  const std::vector<WorkerView> views = registry_->Views();
  std::vector<const WorkerView*> full;
  for (const WorkerView& view : views) {
    if (view.state != v1::WorkerLoad::READY) continue;
    if (!request.model().empty() && view.info.model() != request.model()) continue;
    if (request.worker().empty() ? view.info.engine() != engine
                                 : view.info.name() != request.worker()) {
      continue;
    }
    if (view.snapshot.room() >= num_choices && !IsOverShare(view, request.tenant())) {
      return absl::OkStatus();
    }
    // Which model is meant is Resolve's to say.
    if (!full.empty() && full[0]->info.model() != view.info.model()) return absl::OkStatus();
    full.push_back(&view);
  }
  if (full.empty()) return absl::OkStatus();
  MutexLock lock(mutex_);
  return EveryQueueIsFull(full, /*is_told=*/true);
}

Placer::Sorted Placer::SortWorkers(const Placement& placement,
                                   const std::vector<WorkerView>& views) {
  Sorted sorted;
  for (const WorkerView& view : views) {
    if (view.info.model() != placement.model || view.info.engine() != placement.engine) continue;
    if (!placement.worker.empty() && view.info.name() != placement.worker) continue;
    if (!placement.numerics_id.empty() && view.info.numerics_id() != placement.numerics_id) {
      sorted.why = absl::StrCat(": ", view.info.name(), " computes other bits");
      continue;
    }
    // A worker with less room than those that were there when the request was checked.
    if (!placement.numerics_id.empty() &&
        view.info.context_length() < placement.prompt->size() + placement.max_new_tokens) {
      continue;
    }
    if (view.state != v1::WorkerLoad::READY) {
      sorted.why =
          absl::StrCat(": ", view.info.name(), " is ", v1::WorkerLoad::State_Name(view.state),
                       view.why.empty() ? "" : ", ", view.why);
      sorted.absent.push_back({view.snapshot, 0});
      continue;
    }
    sorted.ready.push_back(&view);
    if (placement.refused.contains(view.number) || IsOverShare(view, placement.tenant)) {
      sorted.refusing.push_back({view.snapshot, 0});
    } else {
      sorted.usable.push_back(&view);
    }
  }
  return sorted;
}

absl::StatusOr<std::shared_ptr<WorkerLink>> Placer::Place(const Placement& placement) {
  const std::vector<WorkerView> views = registry_->Views();
  Sorted sorted = SortWorkers(placement, views);
  // Outside the lock: it takes the time of the prompt.
  std::vector<PrefixHash> chunks;
  if (!sorted.usable.empty()) {
    chunks = PrefixAffinity::Chunks(affinity_key_,
                                    absl::StrCat(placement.model, "\n", placement.cache_salt),
                                    *placement.prompt);
  }
  std::vector<PlacementCandidate> candidates;
  MutexLock lock(mutex_);
  for (const WorkerView* view : sorted.usable) {
    const auto kept = kept_.find(view->number);
    if (kept == kept_.end() || kept->second == placement.alone) {
      candidates.push_back({view->snapshot, affinity_.MatchedTokens(chunks, view->number)});
      continue;
    }
    sorted.why = absl::StrCat(": ", view->info.name(), " is kept for a request that runs alone");
    sorted.absent.push_back({view->snapshot, 0});
  }
  const absl::Status none = NoWorkerNow(absl::StrCat(
      placement.model, " with the engine ", v1::Engine_Name(placement.engine), sorted.why));
  const auto every_queue_is_full = [&]() QUIRE_REQUIRES(mutex_) {
    return EveryQueueIsFull(sorted.ready, !placement.is_move);
  };
  if (candidates.empty()) return sorted.refusing.empty() ? none : every_queue_is_full();
  PlacementRequest request;
  request.prompt_tokens = static_cast<uint32_t>(placement.prompt->size());
  request.max_new_tokens = placement.max_new_tokens;
  request.num_choices = placement.num_choices;
  if (placement.alone != 0) PreferIdle(request, &candidates);
  const PlacementDecision decision = PlaceRequest(request, candidates);
  switch (decision.outcome) {
    case PlacementDecision::Outcome::kFull:
      return every_queue_is_full();
    case PlacementDecision::Outcome::kNeverFits:
      // Not for ever, where a worker that is passed over now has the blocks.
      if (CouldFit(request, sorted.refusing)) return every_queue_is_full();
      if (CouldFit(request, sorted.absent)) return none;
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
  if (placement.alone != 0) {
    if (absl::Status s = KeepForOne(placement, candidates, decision.worker); !s.ok()) return s;
  }
  affinity_.Record(chunks, decision.worker);
  return link;
}

absl::Status Placer::KeepForOne(const Placement& placement,
                                const std::vector<PlacementCandidate>& candidates,
                                WorkerNumber worker) {
  std::erase_if(kept_, [&](const auto& kept) {
    return kept.second == placement.alone || registry_->Find(kept.first) == nullptr;
  });
  const auto chosen = std::find_if(
      candidates.begin(), candidates.end(),
      [worker](const PlacementCandidate& candidate) { return candidate.worker.worker == worker; });
  const bool is_idle = chosen->worker.load() == 0;
  // One that waits for a worker to become idle leaves at least half of them to the others. One that
  // is idle is soon free again: a suspect that goes on is none any more.
  if (is_idle || 2 * (kept_.size() + 1) <= candidates.size() + kept_.size()) {
    kept_[worker] = placement.alone;
  }
  return is_idle ? absl::OkStatus()
                 : NoWorkerNow(absl::StrCat(placement.model, " with nothing else running"));
}

void Placer::Release(uint64_t alone) {
  MutexLock lock(mutex_);
  std::erase_if(kept_, [alone](const auto& kept) { return kept.second == alone; });
}

}  // namespace quire
