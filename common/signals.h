#ifndef QUIRE_COMMON_SIGNALS_H_
#define QUIRE_COMMON_SIGNALS_H_

namespace quire {

// Keeps SIGTERM and SIGINT from interrupting any thread. Call first in main, before threads start.
void BlockTerminationSignals();

// Waits for one of them. Whether RequestTermination sent it. Safe from one thread at a time.
bool WaitForTerminationSignal();

// Makes a waiting WaitForTerminationSignal return, as if the process had been told to end.
void RequestTermination();

}  // namespace quire

#endif  // QUIRE_COMMON_SIGNALS_H_
