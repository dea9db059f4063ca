#ifndef QUIRE_CLIENTS_CLI_INTERRUPT_H_
#define QUIRE_CLIENTS_CLI_INTERRUPT_H_

#include <functional>
#include <thread>

#include "common/mutex.h"

namespace quire {

// While it lives, SIGINT and SIGTERM stop what runs instead of ending the process; the second
// signal ends it at once. Make it before anything that starts threads. Thread safe.
class InterruptWatcher {
 public:
  InterruptWatcher();
  ~InterruptWatcher();

  // From now on a signal calls `stop` on a thread of the watcher; at once, if one came before.
  // Null: nothing. The function set before is not called any more once this returns.
  void SetStop(std::function<void()> stop);

  bool interrupted() const;

 private:
  void Run();

  mutable Mutex mutex_;
  std::function<void()> stop_ QUIRE_GUARDED_BY(mutex_);
  bool interrupted_ QUIRE_GUARDED_BY(mutex_) = false;
  bool closing_ QUIRE_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_INTERRUPT_H_
