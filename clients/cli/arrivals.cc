#include "clients/cli/arrivals.h"

#include <cmath>

namespace quire {

int64_t PoissonArrivals::Next() {
  if (seconds_ < 0) {
    seconds_ = 0;
  } else {
    // Not std::exponential_distribution, whose results differ from library to library.
    const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;  // [0, 1)
    seconds_ += -std::log1p(-uniform) / rate_;
  }
  return std::llround(seconds_ * 1e6);
}

}  // namespace quire
