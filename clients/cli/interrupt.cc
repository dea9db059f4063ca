#include "clients/cli/interrupt.h"

#include <cstdlib>
#include <utility>

#include "clients/cli/exit_code.h"
#include "common/signals.h"

namespace quire {

InterruptWatcher::InterruptWatcher() {
  BlockTerminationSignals();
  thread_ = std::thread([this] { Run(); });
}

InterruptWatcher::~InterruptWatcher() {
  {
    MutexLock lock(mutex_);
    closing_ = true;
  }
  RequestTermination();
  thread_.join();
}

void InterruptWatcher::SetStop(std::function<void()> stop) {
  MutexLock lock(mutex_);
  stop_ = std::move(stop);
  if (interrupted_ && stop_) stop_();
}

bool InterruptWatcher::interrupted() const {
  MutexLock lock(mutex_);
  return interrupted_;
}

void InterruptWatcher::Run() {
  while (true) {
    WaitForTerminationSignal();
    MutexLock lock(mutex_);
    if (closing_) return;
    if (interrupted_) std::_Exit(kExitCancelled);
    interrupted_ = true;
    if (stop_) stop_();
  }
}

}  // namespace quire
