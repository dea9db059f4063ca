// A wall clock that jumps, for one process: to be named in LD_PRELOAD.
//
// CLOCK_REALTIME_SHIM names a file of at least 8 bytes, an int64: nanoseconds by which the wall
// clock is off from now on. Whoever writes there makes it jump, as settimeofday would, for all that
// asks libc. Steady clocks stay right. Abseil, and with it gRPC, waits by futexes until a time of
// the wall clock: such a wait ends when the clock that jumps gets there, or a slice later.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;
// How long a wait may be late in noticing a jump.
constexpr int64_t kSliceNanos = 20'000'000;

int64_t Offset() {
  static const volatile int64_t* const offset = []() -> const volatile int64_t* {
    static const int64_t none = 0;
    const char* path = getenv("CLOCK_REALTIME_SHIM");
    const int file = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return &none;
    void* mapped = mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    return mapped == MAP_FAILED ? &none : static_cast<const volatile int64_t*>(mapped);
  }
  ();
  return *offset;
}

template <typename Function>
Function* Libc(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

int RealClock(clockid_t clock, timespec* time) {
  static auto* const real = Libc<int(clockid_t, timespec*)>("clock_gettime");
  return real(clock, time);
}

int64_t Nanos(const timespec& time) { return time.tv_sec * kNanosPerSecond + time.tv_nsec; }

timespec ToTimespec(int64_t nanos) {
  timespec time;
  time.tv_sec = nanos / kNanosPerSecond;
  time.tv_nsec = nanos % kNanosPerSecond;
  return time;
}

int64_t RealWallNanos() {
  timespec now;
  RealClock(CLOCK_REALTIME, &now);
  return Nanos(now);
}

using Syscall = long(long, ...);

// FUTEX_WAIT_BITSET until a time of the wall clock that jumps.
long WaitForWallClock(Syscall* real, long word, long operation, long value, const timespec* until,
                      long unused, long bits) {
  for (;;) {
    const int64_t now = RealWallNanos();
    const int64_t end = Nanos(*until) - Offset();
    const bool is_last = end <= now + kSliceNanos;
    const timespec slice = ToTimespec(is_last ? (end < 0 ? 0 : end) : now + kSliceNanos);
    const long result = real(SYS_futex, word, operation, value, &slice, unused, bits);
    if (result == 0 || errno != ETIMEDOUT) return result;
    if (RealWallNanos() + Offset() >= Nanos(*until)) {
      errno = ETIMEDOUT;
      return -1;
    }
  }
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const int result = RealClock(clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    *time = ToTimespec(Nanos(*time) + Offset());
  }
  return result;
}

int gettimeofday(timeval* time, void*) noexcept {
  const int64_t now = RealWallNanos() + Offset();
  time->tv_sec = now / kNanosPerSecond;
  time->tv_usec = now % kNanosPerSecond / 1000;
  return 0;
}

time_t time(time_t* result) noexcept {
  const time_t now = (RealWallNanos() + Offset()) / kNanosPerSecond;
  if (result != nullptr) *result = now;
  return now;
}

long syscall(long number, ...) noexcept {
  static auto* const real = Libc<Syscall>("syscall");
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  const auto& [a, b, c, d, e, f] = arguments;
  if (number == SYS_futex && d != 0 && (b & FUTEX_CLOCK_REALTIME) != 0 &&
      (b & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET) {
    return WaitForWallClock(real, a, b, c, reinterpret_cast<const timespec*>(d), e, f);
  }
  return real(number, a, b, c, d, e, f);
}

}  // extern "C"
