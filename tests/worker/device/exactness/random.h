#ifndef QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_RANDOM_H_
#define QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_RANDOM_H_

#include <cstdint>
#include <random>

namespace quire {

using TestRandom = std::mt19937_64;

// One of 0 .. end - 1, the same with every standard library.
template <typename Random>
uint32_t Below(Random& random, uint32_t end) {
  return static_cast<uint32_t>(random() % end);
}

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_RANDOM_H_
