#include "clients/cli/bench_requests.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

namespace quire {
namespace {

// By Box and Muller, and not std::normal_distribution, whose results differ from library to
// library.
std::pair<double, double> TwoNormals(std::mt19937_64& random) {
  constexpr double kTwoPi = 6.283185307179586;
  const double radius_uniform = static_cast<double>(random() >> 11) * 0x1p-53;  // [0, 1)
  const double angle_uniform = static_cast<double>(random() >> 11) * 0x1p-53;
  const double radius = std::sqrt(-2 * std::log1p(-radius_uniform));
  const double angle = kTwoPi * angle_uniform;
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace

uint32_t LengthDistribution::At(double normal) const {
  // exp(mu + sigma * normal) with the mu that gives the mean.
  const double length = mean * std::exp(sigma * normal - sigma * sigma / 2);
  return static_cast<uint32_t>(std::clamp(std::round(length), 1.0, static_cast<double>(max)));
}

BenchRequests::BenchRequests(v1::GenerateRequest base, std::vector<std::string> prompts)
    : base_(std::move(base)), prompts_(std::move(prompts)) {}

BenchRequests::BenchRequests(v1::GenerateRequest base, LengthDistribution input,
                             LengthDistribution output, uint32_t vocabulary_size, uint64_t seed)
    : base_(std::move(base)),
      input_(input),
      output_(output),
      vocabulary_size_(vocabulary_size),
      seed_(seed) {
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
  const auto [input_normal, output_normal] = TwoNormals(random);
  request.set_max_new_tokens(output_.At(output_normal));
  const uint32_t input_len = input_.At(input_normal);
  for (uint32_t i = 0; i < input_len; ++i) {
    request.mutable_token_ids()->add_ids(static_cast<uint32_t>(random() % vocabulary_size_));
  }
  return request;
}

}  // namespace quire
