#ifndef QUIRE_SCHEDULER_BATCH_QUEUE_GATE_H_
#define QUIRE_SCHEDULER_BATCH_QUEUE_GATE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "scheduler/batch/retry_estimator.h"
#include "scheduler/sequence.h"
#include "scheduler/tenant_weights.h"

namespace quire {

// Who may come into a worker's queue: counts the sequences that are there, waiting or running, so
// that a refusal needs no word of the engine.
//
// There are max_num_seqs + max_queue places. The last fifth of the queue's is kept for tenants that
// hold less than their share of the places: as much as their weight is of the weights of all that
// are there, and of one more of weight 1, who may come next. So no tenant alone can fill the queue:
// a newcomer finds room, and is then served by its counter (FairShare). Without such a reserve the
// one who asks most often would get the place that has just become free, every time.
// Not thread safe.
class QueueGate {
 public:
  struct Options {
    uint32_t max_num_seqs = 0;
    uint32_t max_queue = 0;  // both 0: there is no bound
    TenantWeights weights;
  };
  explicit QueueGate(Options options);

  // Takes places for the sequences of a request. False: there is none for this tenant.
  bool Enter(const std::string& tenant, uint32_t num_sequences);
  // Sequences that had entered have ended.
  void Leave(const std::string& tenant, uint32_t num_sequences, Micros now);

  // Those of the tenants here that Enter would refuse now: at most `most`, by name.
  std::vector<std::string> TenantsOverShare(size_t most) const;
  double freed_per_s(Micros now) const { return rate_.PerSecond(now); }
  // When one who is refused now should try again. Counts as told.
  uint32_t RetryAfterMs(Micros now) { return schedule_.NextMs(now, freed_per_s(now), num_taken_); }

  uint64_t num_taken() const { return num_taken_; }

 private:
  bool HasRoom(const std::string& tenant, uint64_t num_held, uint32_t num_wanted) const;

  const Options options_;
  const uint64_t num_places_;
  const uint64_t num_reserved_;
  uint64_t num_taken_ = 0;
  std::map<std::string, uint64_t> held_;  // by tenant; none is 0
  uint64_t weight_ = 0;                   // of those tenants
  FreeingRate rate_;
  RetrySchedule schedule_;
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_BATCH_QUEUE_GATE_H_
