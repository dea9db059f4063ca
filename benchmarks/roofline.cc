#include "benchmarks/roofline.h"

#include <algorithm>

#include "scheduler/check.h"

namespace quire {
namespace {

uint64_t LayerWeights(const ModelConfig& config) {
  const uint64_t hidden = config.hidden_size;
  const uint64_t attention = hidden * (2 * config.q_size() + 2 * config.kv_size());
  const uint64_t mlp = 3 * hidden * config.intermediate_size;
  return config.num_layers * (attention + mlp);
}

}  // namespace

Roofline::Roofline(const ModelConfig& config, uint32_t bytes_per_weight, const DeviceSpeed& speed)
    : speed_(speed),
      bytes_per_weight_(bytes_per_weight),
      layer_weights_(LayerWeights(config)),
      head_weights_(uint64_t{config.hidden_size} * config.vocab_size),
      kv_bytes_per_token_(uint64_t{2} * config.num_layers * config.kv_size() * bytes_per_weight),
      attention_flops_per_key_(uint64_t{4} * config.q_size() * config.num_layers) {
  QUIRE_CHECK(speed.read_bytes_per_s > 0 && speed.flops_per_s > 0);
}

double Roofline::Step(const StepPlan& plan) {
  for (const SlotFill& fill : plan.filled) {
    if (fill.slot >= next_position_.size()) next_position_.resize(fill.slot + 1);
    next_position_[fill.slot] = fill.num_cached_tokens;
  }
  uint64_t positions = 0, rows_with_logits = 0, keys_read = 0, keys_seen = 0;
  for (const SlotRun& run : plan.runs) {
    const uint64_t begin = next_position_[run.slot];
    const uint64_t end = begin + run.num_tokens;
    next_position_[run.slot] = end;
    positions += run.num_tokens;
    rows_with_logits += run.samples;
    keys_read += end;
    keys_seen += (end * (end + 1) - begin * (begin + 1)) / 2;
  }
  const uint64_t head_bytes = rows_with_logits > 0 ? head_weights_ * bytes_per_weight_ : 0;
  const uint64_t bytes =
      layer_weights_ * bytes_per_weight_ + head_bytes + keys_read * kv_bytes_per_token_;
  const uint64_t flops = 2 * layer_weights_ * positions + 2 * head_weights_ * rows_with_logits +
                         attention_flops_per_key_ * keys_seen;
  return std::max(static_cast<double>(bytes) / speed_.read_bytes_per_s,
                  static_cast<double>(flops) / speed_.flops_per_s);
}

}  // namespace quire
