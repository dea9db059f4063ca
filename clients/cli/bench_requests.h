#ifndef QUIRE_CLIENTS_CLI_BENCH_REQUESTS_H_
#define QUIRE_CLIENTS_CLI_BENCH_REQUESTS_H_

#include <quire/v1/inference.pb.h>

#include <cstdint>
#include <string>
#include <vector>

namespace quire {

// The requests of a benchmark: a template with prompts, or with random token ids of one length. The
// i-th request is the same in every run with the same seed.
class BenchRequests {
 public:
  // Prompts in turn. REQUIRES: prompts is not empty.
  BenchRequests(v1::GenerateRequest base, std::vector<std::string> prompts);

  // Random ids below `vocabulary_size`, the model's EOS being no stop. REQUIRES: input_len and
  // vocabulary_size are above 0.
  BenchRequests(v1::GenerateRequest base, uint32_t input_len, uint32_t output_len,
                uint32_t vocabulary_size, uint64_t seed);

  v1::GenerateRequest Make(size_t index) const;

 private:
  v1::GenerateRequest base_;
  std::vector<std::string> prompts_;
  uint32_t input_len_ = 0;
  uint32_t vocabulary_size_ = 0;
  uint64_t seed_ = 0;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_BENCH_REQUESTS_H_
