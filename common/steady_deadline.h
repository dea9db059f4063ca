#ifndef QUIRE_COMMON_STEADY_DEADLINE_H_
#define QUIRE_COMMON_STEADY_DEADLINE_H_

#include <grpc/support/time.h>

#include <cstdint>
#include <optional>

// gRPC's deadlines by the steady clock. std::chrono::system_clock, which its interface offers too,
// would let a jump of the machine's clock end calls or keep them open.
namespace quire {

// So many microseconds from now, for set_deadline and Shutdown.
inline gpr_timespec SteadyDeadline(int64_t micros) {
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_micros(micros, GPR_TIMESPAN));
}

// Microseconds until a deadline, negative once it has passed; empty if there is none.
inline std::optional<int64_t> MicrosUntil(gpr_timespec deadline) {
  const gpr_timespec steady = gpr_convert_clock_type(deadline, GPR_CLOCK_MONOTONIC);
  if (gpr_time_cmp(steady, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0) return std::nullopt;
  const gpr_timespec left = gpr_time_sub(steady, gpr_now(GPR_CLOCK_MONOTONIC));
  return left.tv_sec * 1'000'000 + left.tv_nsec / 1000;
}

}  // namespace quire

#endif  // QUIRE_COMMON_STEADY_DEADLINE_H_
