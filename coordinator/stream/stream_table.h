#ifndef QUIRE_COORDINATOR_STREAM_STREAM_TABLE_H_
#define QUIRE_COORDINATOR_STREAM_STREAM_TABLE_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "coordinator/stream/request_stream.h"
#include "coordinator/stream/tenant_shares.h"
#include "scheduler/batch/retry_estimator.h"

namespace quire {

// The requests of a coordinator by request_id: those that live, and those that ended well lately,
// which answer a retry. Thread safe.
class StreamTable {
 public:
  static constexpr int64_t kKeepMicros = 60'000'000;
  static constexpr size_t kKeepBytes = 64 << 20;

  // Of what waiting calls hold in resumed tokens.
  static constexpr size_t kMaxHeldBytes = size_t{256} << 20;
  // Of either limit, for one tenant, once a request has named one: whoever asks most often would
  // have it all. No tenant is one, too.
  static constexpr double kTenantShare = 0.75;

  // `max_open` calls may hold a request each. As many again may be open that take requests over,
  // since the calls before them may take a while to notice.
  // `clock`: steady, in microseconds.
  explicit StreamTable(size_t max_open, std::function<int64_t()> clock = SteadyMicros)
      : max_open_(max_open), clock_(std::move(clock)) {}

  struct Found {
    std::shared_ptr<RequestStream> stream;
    bool is_new = false;
    // To be held while the call is open: until then its client may have left the request unread,
    // in memory. The table must outlive it.
    std::shared_ptr<void> slot;
  };
  // The stream of that id, made by `make` if there is none that lives or ended well. `tenant`:
  // whose request it is, as the fingerprint says too. `is_resumed`: its client has tokens of it, so
  // that it is let in as one that takes over is. ALREADY_EXISTS: it has another body.
  // RESOURCE_EXHAUSTED: too many calls are open, of this tenant at least. UNAVAILABLE: the table is
  // draining.
  absl::StatusOr<Found> FindOrMake(const std::string& request_id, const std::string& fingerprint,
                                   const std::function<std::shared_ptr<RequestStream>()>& make,
                                   const std::string& tenant = "", bool is_resumed = false);
  // Null if it does not live, or belongs to a tenant and `tenant` is another.
  std::shared_ptr<RequestStream> FindLive(const std::string& request_id,
                                          const std::string& tenant = "") const;
  // Accounts for bytes that a tenant's call holds, until the result is dropped, which the table
  // must outlive. RESOURCE_EXHAUSTED: too many are held.
  absl::StatusOr<std::shared_ptr<void>> HoldBytes(const std::string& tenant, size_t num_bytes);
  // Whether a request has ever named a tenant.
  bool knows_tenants() const { return knows_tenants_.load(std::memory_order_relaxed); }

  // The request took workers with it: who asks for the same again within kQuarantineMicros is
  // refused with FAILED_PRECONDITION. The latest kMaxQuarantined are known.
  static constexpr int64_t kQuarantineMicros = 600'000'000;
  static constexpr size_t kMaxQuarantined = 1024;
  void Quarantine(const RequestStream& stream);
  // What counts against a request that ended otherwise counts against the same body again, as a
  // client sends it that retries; of as many of the latest.
  static constexpr size_t kMaxSuspects = 1024;

  // To be called once when a stream has ended.
  void OnEnd(RequestStream& stream, const absl::Status& status);

  size_t num_live() const;
  // From now on new requests are refused. How many live.
  size_t StartDraining();
  // Waits until no request lives, or until `deadline` (steady, microseconds). True: none does.
  bool WaitUntilIdle(int64_t deadline);
  // The same, until no call is open: every client has taken all that there was for it.
  bool WaitUntilRead(int64_t deadline);
  // Ends what lives. How many that were.
  size_t EndAll(const absl::Status& status);

 private:
  struct Kept {
    std::shared_ptr<RequestStream> stream;
    int64_t until = 0;
    size_t num_bytes = 0;
  };
  struct Live {
    std::shared_ptr<RequestStream> stream;
    std::string tenant;
  };
  void DropExpired(int64_t now) QUIRE_REQUIRES(mutex_);
  // RESOURCE_EXHAUSTED if `most` are taken, or the tenant's part of them.
  absl::StatusOr<std::shared_ptr<void>> TakeSlot(const std::string& tenant, size_t most)
      QUIRE_REQUIRES(mutex_);
  double tenant_share() const { return knows_tenants() ? kTenantShare : 1; }

  const size_t max_open_;
  const std::function<int64_t()> clock_;
  mutable Mutex mutex_;
  CondVar idle_;
  CondVar read_;
  absl::flat_hash_map<std::string, Live> live_ QUIRE_GUARDED_BY(mutex_);
  std::list<Kept> kept_ QUIRE_GUARDED_BY(mutex_);  // oldest first
  absl::flat_hash_map<std::string, std::list<Kept>::iterator> kept_by_id_ QUIRE_GUARDED_BY(mutex_);
  size_t kept_bytes_ QUIRE_GUARDED_BY(mutex_) = 0;
  TenantShares open_ QUIRE_GUARDED_BY(mutex_);  // slots
  FreeingRate freed_slots_ QUIRE_GUARDED_BY(mutex_);
  RetrySchedule retries_ QUIRE_GUARDED_BY(mutex_);
  bool draining_ QUIRE_GUARDED_BY(mutex_) = false;
  // Fingerprints, and until when; oldest first.
  std::deque<std::pair<std::string, int64_t>> quarantined_ QUIRE_GUARDED_BY(mutex_);
  // Fingerprints, and RequestStream::losses; oldest first.
  std::deque<std::pair<std::string, std::vector<int64_t>>> suspects_ QUIRE_GUARDED_BY(mutex_);
  std::atomic<bool> knows_tenants_ = false;
  Mutex held_mutex_;  // taken last: what is held may end anywhere
  TenantShares held_bytes_ QUIRE_GUARDED_BY(held_mutex_);
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_STREAM_STREAM_TABLE_H_
