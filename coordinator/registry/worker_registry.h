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
// (static) or announce themselves (joined); what a worker says of itself in its session counts, so
// the two are equal from then on. Thread safe.
//
// A name belongs to one process: a new incarnation under a name takes it over at once, from
// whatever address, and the one that it replaces is refused from then on. A joined worker that has
// been gone for kForgetMicros is forgotten; static ones never are.
class WorkerRegistry {
 public:
  static constexpr int64_t kForgetMicros = 600'000'000;
  static constexpr size_t kMaxWorkers = 4096;
  static constexpr size_t kMaxAnnounced = 64;

  // `context.admit` is set here.
  WorkerRegistry(WorkerLink::Context context, WorkerConnectorFactory connect);
  ~WorkerRegistry() { Shutdown(); }

  // A worker that shall be there. REQUIRES: the address is valid.
  void AddStatic(const std::string& address);

  // A worker says that it is there. RESOURCE_EXHAUSTED: there are too many already. ALREADY_EXISTS:
  // a newer process has its name.
  absl::Status Join(const std::string& address, const std::string& incarnation,
                    const worker::v1::WorkerInfo& info);

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
    bool is_static = false;
    int64_t last_alive = 0;
    // Incarnations that announced this address: each may restart the session once. At most
    // kMaxAnnounced, latest last.
    std::deque<std::string> announced;
  };

  std::shared_ptr<WorkerLink> AddLink(const std::string& address, bool is_static)
      QUIRE_REQUIRES(mutex_);
  absl::Status Admit(const WorkerLink& link, const worker::v1::Opened& opened);
  std::vector<std::shared_ptr<WorkerLink>> Links() const;
  absl::Status CheckNotReplaced(const std::string& name, const std::string& incarnation) const;
  // Removes the workers other than `keep` that hold the name; they ended when `incarnation` began.
  void TakeName(const std::string& name, const std::string& incarnation, WorkerNumber keep);

  WorkerLink::Context context_;
  const WorkerConnectorFactory connect_;
  mutable Mutex mutex_;
  std::map<WorkerNumber, Entry> workers_ QUIRE_GUARDED_BY(mutex_);
  WorkerNumber next_number_ QUIRE_GUARDED_BY(mutex_) = 1;
  // Incarnations that lost their name, latest last; at most kMaxWorkers.
  std::deque<std::string> replaced_ QUIRE_GUARDED_BY(mutex_);
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_REGISTRY_WORKER_REGISTRY_H_
