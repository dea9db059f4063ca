#ifndef QUIRE_WORKER_RPC_ETCD_ANNOUNCER_H_
#define QUIRE_WORKER_RPC_ETCD_ANNOUNCER_H_

#include <quire/worker/v1/worker.pb.h>

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "common/etcd/etcd_api.h"
#include "common/mutex.h"

namespace quire {

// Keeps a worker's announcement in etcd, for ever: under a lease that is renewed three times in its
// life, granted anew when it was lost, and written anew when the key is gone. A name belongs to the
// process that took it last: one that finds another's announcement under its name leaves it there,
// and takes the name again when that has gone. Thread safe.
class EtcdAnnouncer {
 public:
  struct Options {
    std::string prefix;               // of the keys (common/etcd/announcement.h)
    worker::v1::WorkerStatus status;  // address, incarnation and worker
    int64_t lease_ttl_s = 10;         // etcd may grant more
    std::string join_token;           // empty: not signed
    std::function<int64_t()> clock;   // microseconds of a steady clock
  };
  // `etcd` is this object's alone, and outlives it.
  EtcdAnnouncer(EtcdApi* etcd, Options options);
  ~EtcdAnnouncer() { Stop(); }

  // To be called some times a second: makes the call that is due.
  void Tick();

  // Gives the lease back, and with it the announcement, as far as etcd answers within the time of a
  // call; then shuts `etcd` down. Tick does nothing any more.
  void Stop();

 private:
  enum class Step { kGrant, kPut, kKeepAlive, kCheck };

  void Run(Step step, int64_t lease);
  void Grant();
  void Put(int64_t lease);
  void KeepAlive(int64_t lease);
  // Looks whose announcement is under the name.
  void Check(int64_t lease);
  // The call in flight is over: the next is `step`, `delay` later.
  void Next(Step step, int64_t delay) QUIRE_REQUIRES(mutex_);
  void LeaseLost() QUIRE_REQUIRES(mutex_);
  void Failed(const absl::Status& status) QUIRE_REQUIRES(mutex_);
  void Succeeded() QUIRE_REQUIRES(mutex_);

  EtcdApi* const etcd_;
  const Options options_;
  const std::string key_;
  const std::string value_;

  Mutex mutex_;
  CondVar revoked_;
  Step step_ QUIRE_GUARDED_BY(mutex_) = Step::kGrant;
  int64_t due_at_ QUIRE_GUARDED_BY(mutex_) = 0;
  bool in_flight_ QUIRE_GUARDED_BY(mutex_) = false;
  int64_t lease_ QUIRE_GUARDED_BY(mutex_) = 0;  // 0: none
  int64_t beat_micros_ QUIRE_GUARDED_BY(mutex_) = 0;
  bool was_announced_ QUIRE_GUARDED_BY(mutex_) = false;
  bool name_is_taken_ QUIRE_GUARDED_BY(mutex_) = false;  // by another process, as the log says
  uint32_t num_failures_ QUIRE_GUARDED_BY(mutex_) = 0;   // in a row
  bool stopped_ QUIRE_GUARDED_BY(mutex_) = false;
  bool revoking_ QUIRE_GUARDED_BY(mutex_) = false;
};

}  // namespace quire

#endif  // QUIRE_WORKER_RPC_ETCD_ANNOUNCER_H_
