#include "clients/cli/bench_requests.h"

#include <random>
#include <utility>

namespace quire {

BenchRequests::BenchRequests(v1::GenerateRequest base, std::vector<std::string> prompts)
    : base_(std::move(base)), prompts_(std::move(prompts)) {}

BenchRequests::BenchRequests(v1::GenerateRequest base, uint32_t input_len, uint32_t output_len,
                             uint32_t vocabulary_size, uint64_t seed)
    : base_(std::move(base)),
      input_len_(input_len),
      vocabulary_size_(vocabulary_size),
      seed_(seed) {
  base_.set_max_new_tokens(output_len);
  base_.mutable_stop()->set_ignore_eos(true);
}

v1::GenerateRequest BenchRequests::Make(size_t index) const {
  v1::GenerateRequest request = base_;
  if (!prompts_.empty()) {
    request.set_text(prompts_[index % prompts_.size()]);
    return request;
  }
  std::seed_seq seeds{static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32),
                      static_cast<uint32_t>(index)};
  std::mt19937_64 random(seeds);
  for (uint32_t i = 0; i < input_len_; ++i) {
    request.mutable_token_ids()->add_ids(static_cast<uint32_t>(random() % vocabulary_size_));
  }
  return request;
}

}  // namespace quire
