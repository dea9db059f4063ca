#ifndef QUIRE_WORKER_DEVICE_TORCH_BASELINE_TORCH_MODEL_H_
#define QUIRE_WORKER_DEVICE_TORCH_BASELINE_TORCH_MODEL_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "scheduler/batch/step_plan.h"
#include "worker/device/torch_baseline/torch_kv_cache.h"
#include "worker/model/weights.h"

namespace quire {

// A linear layer, y = x · Wᵀ + b. Without a bias where the model has none.
struct TorchLinear {
  at::Tensor weight;  // [outputs, inputs]
  std::optional<at::Tensor> bias;
};

struct TorchLayer {
  at::Tensor input_norm;
  TorchLinear q, k, v;
  at::Tensor q_norm, k_norm;  // undefined where the model has none
  TorchLinear o;
  at::Tensor post_attention_norm;
  TorchLinear gate, up, down;
};

// A decoder of the Llama family as the modules of transformers compute it (its modeling_llama.py
// and kin, with sdpa attention): the same operators, in the dtype of the weights, rounding where
// they round. On the CPU the tensors are views of the weights, elsewhere they are copies.
//
// Functions throw what torch throws. Forward writes to the cache it is given and to nothing else.
class TorchModel {
 public:
  TorchModel(std::shared_ptr<const Weights> weights, uint32_t context_length, c10::Device device);

  // The next positions of the cache's sequence, whose cache is on the same device. Gives the hidden
  // states after the last norm, [1, tokens, hidden]. A fault says where they stopped being finite.
  struct Hidden {
    at::Tensor states;
    NumericFault fault = NumericFault::kNone;
  };
  Hidden Forward(std::span<const TokenId> tokens, TorchKvCache& cache) const;

  // Of some of those states, [1, rows, hidden]: [rows, vocabulary] in fp32, contiguous, on the CPU.
  // In bf16 they are rounded to bf16 first, as the head is a linear layer like any other.
  at::Tensor Logits(const at::Tensor& states) const;

 private:
  // What a step's layers share.
  struct Rotation {
    at::Tensor cos, sin;  // [tokens, head_dim]
  };
  struct Visibility {
    std::optional<at::Tensor> mask;  // [1, 1, tokens, keys], true where visible
    bool causal = false;             // without a mask: key j is visible to row i iff j <= i
  };

  Visibility VisibleKeys(const TorchKvCache& cache, int64_t num_tokens) const;
  at::Tensor Attention(size_t index, const at::Tensor& input, const Rotation& rotation,
                       const Visibility& visible, TorchKvCache& cache) const;
  at::Tensor Norm(const at::Tensor& input, const at::Tensor& weight) const;

  const std::shared_ptr<const Weights> weights_;
  const c10::Device device_;
  at::Tensor embedding_;
  std::vector<TorchLayer> layers_;
  at::Tensor final_norm_;
  TorchLinear head_;
  at::Tensor cos_, sin_;  // [context, head_dim]: both halves alike
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_TORCH_BASELINE_TORCH_MODEL_H_
