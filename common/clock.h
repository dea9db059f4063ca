#ifndef QUIRE_COMMON_CLOCK_H_
#define QUIRE_COMMON_CLOCK_H_

#include <chrono>
#include <cstdint>

namespace quire {

// Microseconds of the steady clock: the only clock that decides anything here.
inline int64_t SteadyMicros() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

inline std::chrono::steady_clock::time_point FromSteadyMicros(int64_t micros) {
  return std::chrono::steady_clock::time_point(std::chrono::microseconds(micros));
}

}  // namespace quire

#endif  // QUIRE_COMMON_CLOCK_H_
