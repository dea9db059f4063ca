#ifndef QUIRE_COORDINATOR_REGISTRY_ETCD_REGISTRY_H_
#define QUIRE_COORDINATOR_REGISTRY_ETCD_REGISTRY_H_

#include <quire/worker/v1/worker.pb.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/etcd/etcd_api.h"
#include "common/mutex.h"
#include "coordinator/registry/worker_registry.h"

namespace quire {

// Brings what workers announced in etcd into a WorkerRegistry.
//
// All announcements are read every kRelistMicros; a watch in between brings news at once, and is a
// hint alone: it may break, lag or have been compacted away. While etcd is away what was read last
// goes on to hold. An announcement that is gone ends nothing (WorkerRegistry::Unlist), so nothing
// that etcd does takes away a worker that answers. What it holds may have been written by anyone:
// values that are no announcements are named in the log once. Thread safe.
class EtcdRegistry {
 public:
  static constexpr int64_t kRelistMicros = 10'000'000;
  // Announcements a Range: so many of the largest values that etcd takes, 1.5 MiB, fit a message.
  static constexpr int kPageKeys = 32;

  struct Options {
    std::string prefix;              // of the keys (common/etcd/announcement.h)
    std::string join_token;          // what announcements are signed with; empty: they are not
    std::function<int64_t()> clock;  // microseconds of a steady clock
  };
  // `etcd` is this object's alone; it and `registry` outlive it.
  EtcdRegistry(EtcdApi* etcd, WorkerRegistry* registry, Options options);
  ~EtcdRegistry() { Stop(); }

  // To be called some times a second: reads the announcements when that is due.
  void Tick();

  // Ends every call, and shuts `etcd` down. Tick does nothing any more.
  void Stop();

 private:
  class WatchHandler;
  // What a key says; an error for a value that is none.
  using Announced = absl::StatusOr<worker::v1::WorkerStatus>;
  struct Listed {
    std::string address;  // empty: the value is none
    std::string refused;  // why, as the log says; empty: it is not
  };

  void ReadPage(const std::string& from, int64_t revision);
  void OnPage(absl::StatusOr<etcdserverpb::RangeResponse> page, int64_t revision);
  void OnAllRead(int64_t revision) QUIRE_REQUIRES(mutex_);
  void ReadFailed(const absl::Status& status) QUIRE_REQUIRES(mutex_);
  void StartWatch(int64_t revision);
  void OnWatch(uint64_t watch, const etcdserverpb::WatchResponse& response);
  void OnWatchClosed(uint64_t watch, const absl::Status& status);
  // The watch is over: everything is read again.
  void EndWatch(const std::string& why) QUIRE_REQUIRES(mutex_);

  // Of no worker's key. The first is named in the log.
  bool IsTooLong(const std::string& key) QUIRE_REQUIRES(mutex_);
  Announced Decode(const mvccpb::KeyValue& kv) const;
  void List(const std::string& key, const Announced& announced) QUIRE_REQUIRES(mutex_);
  void Unlist(const std::string& key) QUIRE_REQUIRES(mutex_);
  void UnlistAddress(const std::string& address) QUIRE_REQUIRES(mutex_);

  EtcdApi* const etcd_;
  WorkerRegistry* const registry_;
  const Options options_;
  const std::string keys_;

  Mutex mutex_;  // held while the registry is called, which calls nothing here
  std::map<std::string, Listed> listed_ QUIRE_GUARDED_BY(mutex_);  // by key; at most kMaxWorkers
  bool is_full_ QUIRE_GUARDED_BY(mutex_) = false;                  // as the log says
  bool told_of_long_key_ QUIRE_GUARDED_BY(mutex_) = false;
  bool stopped_ QUIRE_GUARDED_BY(mutex_) = false;

  // The reading under way.
  bool reading_ QUIRE_GUARDED_BY(mutex_) = false;
  std::map<std::string, Announced> read_ QUIRE_GUARDED_BY(mutex_);
  // Keys that a watch told of meanwhile: what it said is newer.
  std::set<std::string> told_ QUIRE_GUARDED_BY(mutex_);
  int64_t read_at_ QUIRE_GUARDED_BY(mutex_) = 0;        // when the next is due
  uint32_t num_failures_ QUIRE_GUARDED_BY(mutex_) = 0;  // in a row

  uint64_t watch_ QUIRE_GUARDED_BY(mutex_) = 0;  // counts watches; late words of old ones are void
  std::shared_ptr<MessageSink<etcdserverpb::WatchRequest>> sink_ QUIRE_GUARDED_BY(mutex_);
  bool watching_ QUIRE_GUARDED_BY(mutex_) = false;
  uint32_t num_watch_failures_ QUIRE_GUARDED_BY(mutex_) = 0;  // since one outlived a reading
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_REGISTRY_ETCD_REGISTRY_H_
