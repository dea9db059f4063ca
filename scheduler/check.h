#ifndef QUIRE_SCHEDULER_CHECK_H_
#define QUIRE_SCHEDULER_CHECK_H_

#include <cstdio>
#include <cstdlib>

// Ends the process when an invariant does not hold. It states what the code guarantees; input is
// validated at the edge and answered with a Status instead.
#define QUIRE_CHECK(condition)                                                           \
  do {                                                                                   \
    if (__builtin_expect(!(condition), 0)) {                                             \
      std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

#endif  // QUIRE_SCHEDULER_CHECK_H_
