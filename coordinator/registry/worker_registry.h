#ifndef QUIRE_COORDINATOR_REGISTRY_WORKER_REGISTRY_H_
#define QUIRE_COORDINATOR_REGISTRY_WORKER_REGISTRY_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/mutex.h"
#include "coordinator/worker_client/worker_link.h"

namespace quire {

// The workers that a coordinator knows, with a link to each. They come from the command line
// (static), announce themselves (joined), or are in a list that others keep (listed: etcd's); what
// a worker says of itself in its session counts, so they are equal from then on. Thread safe.
//
// An announcement may be old, wrong or forged, so it does no more than make the registry connect:
// it ends no session that answers, and it takes no name. A name is of the process whose session
// opened with it, for as long as that answers; once it is silent, deaf, hung or gone, the next one
// that opens has it, from whatever address.
//
// A worker that has been gone for kForgetMicros is forgotten, unless it is static or still listed.
class WorkerRegistry {
 public:
  static constexpr int64_t kForgetMicros = 600'000'000;
  static constexpr size_t kMaxWorkers = 4096;
  static constexpr size_t kMaxAnnounced = 64;

  // `context.admit` is set here.
  WorkerRegistry(WorkerLink::Context context, WorkerConnectorFactory connect,
                 int64_t forget_micros = kForgetMicros);
  ~WorkerRegistry() { Shutdown(); }

  // A worker that shall be there. REQUIRES: the address is valid.
  void AddStatic(const std::string& address);

  // A worker says that it is there. Connects to it if it is unknown. RESOURCE_EXHAUSTED: there are
  // too many already. ALREADY_EXISTS: another process answers at the address or has the name; said
  // again once that one is gone, it is taken.
  absl::Status Join(const std::string& address, const std::string& incarnation,
                    const std::string& name);

  // A list names a worker. As Join, but one whose name another has is connected to, so that it
  // serves as soon as that one is gone: a list is not told of a refusal, and does not ask again.
  absl::Status List(const std::string& address, const std::string& incarnation,
                    const std::string& name);
  // The list does not name it any more. That makes it a suspect at most: whether it is there is for
  // its session to say, and it is forgotten when that is gone as well.
  void Unlist(const std::string& address);

  // Every worker, in the order in which they came.
  std::vector<WorkerView> Views() const;
  // Null for a number that is forgotten.
  std::shared_ptr<WorkerLink> Find(WorkerNumber number) const;

  // To be called some times a second: pings, and forgets.
  void Tick();

  // Ends every session, and with them their requests; nothing of them calls back afterwards.
  void Shutdown();

 private:
  struct Entry {
    std::shared_ptr<WorkerLink> link;
    std::string name;  // that is its own; at most one entry has a name
    bool is_static = false;
    bool is_listed = false;
    int64_t last_alive = 0;
    // Incarnations that announced this address while its session did not answer: each restarted it,
    // once. At most kMaxAnnounced, latest last.
    std::deque<std::string> announced;
  };

  std::shared_ptr<WorkerLink> AddLink(const std::string& address, bool is_static)
      QUIRE_REQUIRES(mutex_);
  // Null: there is none.
  Entry* FindAddress(const std::string& address) QUIRE_REQUIRES(mutex_);
  Entry* FindName(const std::string& name) QUIRE_REQUIRES(mutex_);
  absl::Status CheckRoom() const QUIRE_REQUIRES(mutex_);
  absl::Status Announce(const std::string& address, const std::string& incarnation,
                        const std::string& name, bool is_listed);
  // May the process that opened the session have its name? If so it has it from now on.
  absl::Status Admit(const WorkerLink& link, const worker::v1::Opened& opened);
  std::vector<std::shared_ptr<WorkerLink>> Links() const;

  WorkerLink::Context context_;
  const WorkerConnectorFactory connect_;
  const int64_t forget_micros_;
  mutable Mutex
      mutex_;  // held while a link is looked at, which calls nothing here with its own held
  std::map<WorkerNumber, Entry> workers_ QUIRE_GUARDED_BY(mutex_);
  WorkerNumber next_number_ QUIRE_GUARDED_BY(mutex_) = 1;
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_REGISTRY_WORKER_REGISTRY_H_
