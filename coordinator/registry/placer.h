#ifndef QUIRE_COORDINATOR_REGISTRY_PLACER_H_
#define QUIRE_COORDINATOR_REGISTRY_PLACER_H_

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <quire/v1/inference.pb.h>
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "coordinator/registry/served_names.h"
#include "coordinator/registry/worker_registry.h"
#include "coordinator/stream/timers.h"
#include "scheduler/batch/retry_estimator.h"
#include "scheduler/placement/placement_policy.h"
#include "scheduler/placement/prefix_affinity.h"

namespace quire {

// What of a request decides where it may run.
struct Placement {
  std::string model;
  v1::Engine engine = v1::PAGED;
  std::string worker;  // empty: any
  std::string cache_salt;
  std::string tenant;
  const std::vector<uint32_t>* prompt = nullptr;
  uint32_t max_new_tokens = 0;
  uint32_t num_choices = 1;
  std::set<WorkerNumber> refused;  // workers that did not take the request
  // Of a request that has run already: the workers that go on with the same bits. Empty: any.
  std::string numerics_id;
  // It has run already and is tried again and again: a refusal is not told to its client.
  bool is_move = false;
  // A request that may be what its workers died of gets a worker to itself, as far as this
  // coordinator knows, under its name here, until Release. 0: none such.
  uint64_t alone = 0;
};

// Brings requests and the registry's snapshots before the placement policy. Thread safe.
class Placer {
 public:
  static constexpr int64_t kAskMicros = 1'000'000;

  // CheckRoom asks the registry for `ask_micros` after a refusal.
  Placer(WorkerRegistry* registry, const Timers* timers, int64_t ask_micros = kAskMicros);

  // The model that is meant (FindModel, whose errors it gives too; by a worker's name alone, its
  // model), with its workers' limits. NOT_FOUND, naming those that exist, for an engine or a
  // worker; UNAVAILABLE while no worker serves it.
  struct Target {
    std::shared_ptr<const ServedModel> model;
    v1::Engine engine = v1::PAGED;
    uint32_t context_length = 0;       // the least of the workers that may run it
    uint32_t most_context_length = 0;  // and the most
    uint32_t vocabulary_size = 0;
  };
  absl::StatusOr<Target> Resolve(const std::string& model, v1::Engine engine,
                                 const std::string& worker) const;

  // Whether it is known, before a prompt is tokenized, that Place would find every queue full:
  // RESOURCE_EXHAUSTED, as Place says it. OK says nothing. Costs nothing while no queue is full.
  absl::Status CheckRoom(const v1::GenerateRequest& request);

  // RESOURCE_EXHAUSTED: every queue is full, for its tenant at least. FAILED_PRECONDITION: it needs
  // more KV blocks than any worker has, those that are not READY now included. UNAVAILABLE: no
  // worker serves it now. For a request that is to run alone also while every worker has others
  // yet, of which one is kept for it meanwhile if as many are left to the others.
  absl::StatusOr<std::shared_ptr<WorkerLink>> Place(const Placement& placement);
  // The request of that name does not need a worker to itself any more.
  void Release(uint64_t alone);

 private:
  // The workers that a placement may mean.
  struct Sorted {
    std::vector<const WorkerView*> ready;
    std::vector<const WorkerView*> usable;     // of those, what has not refused it
    std::vector<PlacementCandidate> refusing;  // the rest
    std::vector<PlacementCandidate> absent;    // not READY
    std::string why;                           // of the last of these
  };
  static Sorted SortWorkers(const Placement& placement, const std::vector<WorkerView>& views);
  // That worker, if nothing runs there; else it may be kept until nothing does.
  absl::Status KeepForOne(const Placement& placement,
                          const std::vector<PlacementCandidate>& candidates, WorkerNumber worker)
      QUIRE_REQUIRES(mutex_);
  // One more is refused, by these workers; `is_told`: and its client told when to come back.
  absl::Status EveryQueueIsFull(const std::vector<const WorkerView*>& workers, bool is_told)
      QUIRE_REQUIRES(mutex_);

  WorkerRegistry* const registry_;
  const Timers* const timers_;
  const int64_t ask_micros_;
  std::atomic<int64_t> refused_at_ = INT64_MIN / 2;  // the last time; steady, microseconds
  const PrefixHashKey affinity_key_;
  Mutex mutex_;
  RetrySchedule retries_ QUIRE_GUARDED_BY(mutex_);
  PrefixAffinity affinity_ QUIRE_GUARDED_BY(mutex_);
  std::map<WorkerNumber, uint64_t> kept_ QUIRE_GUARDED_BY(mutex_);  // for whom
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_REGISTRY_PLACER_H_
