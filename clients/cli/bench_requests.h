#ifndef QUIRE_CLIENTS_CLI_BENCH_REQUESTS_H_
#define QUIRE_CLIENTS_CLI_BENCH_REQUESTS_H_

#include <quire/v1/inference.pb.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace quire {

// Tokens of random prompts or outputs: log-normal, as lengths of conversations are.
struct LengthDistribution {
  double mean = 0;
  double sigma = 0;  // of the logarithm; 0: every length is the mean
  // What the tail is cut to, which takes a little off the mean.
  uint32_t max = std::numeric_limits<uint32_t>::max();

  // The length for a value of the standard normal distribution: at least 1, at most max.
  uint32_t At(double normal) const;
};

// The requests of a benchmark: a template with prompts, or with random token ids. The i-th request
// is the same in every run with the same seed.
class BenchRequests {
 public:
  // Prompts in turn. REQUIRES: prompts is not empty.
  BenchRequests(v1::GenerateRequest base, std::vector<std::string> prompts);

  // Random ids below `vocabulary_size`, the model's EOS being no stop. REQUIRES: both means and
  // vocabulary_size are above 0.
  BenchRequests(v1::GenerateRequest base, LengthDistribution input, LengthDistribution output,
                uint32_t vocabulary_size, uint64_t seed);

  v1::GenerateRequest Make(size_t index) const;

 private:
  v1::GenerateRequest base_;
  std::vector<std::string> prompts_;
  LengthDistribution input_, output_;
  uint32_t vocabulary_size_ = 0;
  uint64_t seed_ = 0;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_BENCH_REQUESTS_H_
