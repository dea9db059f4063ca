#ifndef QUIRE_BENCHMARKS_ROOFLINE_H_
#define QUIRE_BENCHMARKS_ROOFLINE_H_

#include <cstdint>
#include <vector>

#include "scheduler/batch/step_plan.h"
#include "worker/model/model_config.h"

namespace quire {

// What a device reaches at best.
struct DeviceSpeed {
  double read_bytes_per_s = 0;
  double flops_per_s = 0;  // matrix products in the model's dtype
};

// The least time that a device of some speed needs for a step, whatever its kernels
// (https://doi.org/10.1145/1498765.1498785): the longer of reading and computing, as if each were
// hidden behind the other.
//
//   bytes = weights of all layers, and of the output head if any row has logits
//         + for each run the keys and values of its sequence up to the run's end
//   flops = 2 x weights of all layers x positions + 2 x weights of the head x rows with logits
//         + 4 x num_heads x head_dim x layers x keys that the positions see
//
// Norms, biases, the embedding's rows and activations are left out, and so is what a sliding window
// spares. A sum over steps is a bound for the steps as they were planned: a scheduler that batches
// worse has a longer one.
//
// Not thread safe.
class Roofline {
 public:
  // REQUIRES: both speeds are above 0.
  Roofline(const ModelConfig& config, uint32_t bytes_per_weight, const DeviceSpeed& speed);

  // Seconds. Plans come in the order of their launches, from the first one on.
  double Step(const StepPlan& plan);

  // What a step reads of the weights when it has logits.
  uint64_t weight_bytes() const { return (layer_weights_ + head_weights_) * bytes_per_weight_; }

 private:
  const DeviceSpeed speed_;
  const uint64_t bytes_per_weight_;
  const uint64_t layer_weights_;
  const uint64_t head_weights_;
  const uint64_t kv_bytes_per_token_;
  const uint64_t attention_flops_per_key_;  // for one position
  std::vector<uint64_t> next_position_;     // by slot
};

}  // namespace quire

#endif  // QUIRE_BENCHMARKS_ROOFLINE_H_
