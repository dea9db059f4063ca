#include "scheduler/batch/retry_estimator.h"

#include <algorithm>

namespace quire {

uint32_t RetrySchedule::NextMs(Micros now, double freed_per_s, uint64_t num_here) {
  if (!(freed_per_s > 0)) return kUnknownMs;
  constexpr double kMostMicros = kMostMs * 1e3;
  const auto interval = static_cast<Micros>(std::min(1e6 / freed_per_s, kMostMicros));
  const auto all = static_cast<Micros>(std::min(
      static_cast<double>(std::max<uint64_t>(num_here, 1)) * 1e6 / freed_per_s, kMostMicros));
  told_ = std::min(std::max(told_, now) + interval, now + all);
  const auto delay_ms = static_cast<uint32_t>((told_ - now + 999) / 1000);
  return std::clamp(delay_ms, kLeastMs, kMostMs);
}

void FreeingRate::OnFreed(Micros now, uint32_t count) {
  count_ += count;
  if (!events_.empty() && events_.back().first == now) {
    events_.back().second += count;
    return;
  }
  events_.emplace_back(now, count);
  if (events_.size() <= kMaxEvents) return;
  count_ -= events_.front().second;
  events_.pop_front();
}

double FreeingRate::PerSecond(Micros now) const {
  // What became free at the first moment did so in the time before it.
  if (events_.size() < 2 || now <= events_.front().first) return 0;
  return static_cast<double>(count_ - events_.front().second) * 1e6 /
         static_cast<double>(now - events_.front().first);
}

}  // namespace quire
