#ifndef QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_SAME_BITS_H_
#define QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_SAME_BITS_H_

#include <string>
#include <vector>

#include "tests/worker/device/exactness/executor_driver.h"

namespace quire {

// Whether `row`, [expected.size()], has the same bits.
bool SameBits(const std::vector<float>& expected, const float* row);
bool SameBits(const TokenLogprobs& a, const TokenLogprobs& b);

// How many numbers of the row differ, where, and by how much.
std::string Difference(const std::vector<float>& expected, const float* row);

// Expects (GoogleTest, fatally) the same output of every sequence, no faults, and the bits of every
// row of logits that was seen.
void ExpectSame(const std::vector<TestSequence>& expected, const std::vector<TestSequence>& got);

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_DEVICE_EXACTNESS_SAME_BITS_H_
