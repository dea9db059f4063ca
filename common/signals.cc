#include "common/signals.h"

#include <signal.h>
#include <unistd.h>

namespace quire {
namespace {

sigset_t TerminationSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void BlockTerminationSignals() {
  const sigset_t set = TerminationSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

bool WaitForTerminationSignal() {
  const sigset_t set = TerminationSignals();
  siginfo_t info{};
  while (sigwaitinfo(&set, &info) < 0) {  // EINTR: another signal was handled
  }
  return info.si_code == SI_USER && info.si_pid == getpid();
}

void RequestTermination() { kill(getpid(), SIGTERM); }

}  // namespace quire
