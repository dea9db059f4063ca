#ifndef QUIRE_CLIENTS_CLI_ARRIVALS_H_
#define QUIRE_CLIENTS_CLI_ARRIVALS_H_

#include <cstdint>
#include <random>

namespace quire {

// The arrival times of a Poisson process: independent exponential gaps. The same rate and seed give
// the same times on every machine. Not thread safe.
class PoissonArrivals {
 public:
  // REQUIRES: rate > 0, in requests a second; infinite: all arrive at time 0.
  PoissonArrivals(double rate, uint64_t seed) : rate_(rate), random_(seed) {}

  // Microseconds from the start to the next arrival; the first is at 0.
  int64_t Next();

 private:
  const double rate_;
  std::mt19937_64 random_;
  double seconds_ = -1;  // below 0 before the first
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_ARRIVALS_H_
