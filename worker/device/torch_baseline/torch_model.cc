#include "worker/device/torch_baseline/torch_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "worker/model/rope.h"

namespace quire {
namespace {

at::ScalarType TorchType(DType dtype) { return dtype == DType::kF32 ? at::kFloat : at::kBFloat16; }

// torch takes no read-only memory; nothing here writes to a weight.
at::Tensor Matrix(const WeightView& view, c10::Device device) {
  return at::from_blob(const_cast<void*>(view.data),
                       {static_cast<int64_t>(view.rows), static_cast<int64_t>(view.cols)},
                       TorchType(view.dtype))
      .to(device);
}

at::Tensor Vector(const WeightView& view, c10::Device device) {
  return view ? Matrix(view, device).view(-1) : at::Tensor();
}

TorchLinear Linear(const WeightView& weight, const WeightView& bias, c10::Device device) {
  TorchLinear linear{Matrix(weight, device), std::nullopt};
  if (bias) linear.bias = Vector(bias, device);
  return linear;
}

TorchLayer Layer(const LayerWeights& from, c10::Device device) {
  return {.input_norm = Vector(from.input_norm, device),
          .q = Linear(from.q, from.q_bias, device),
          .k = Linear(from.k, from.k_bias, device),
          .v = Linear(from.v, from.v_bias, device),
          .q_norm = Vector(from.q_norm, device),
          .k_norm = Vector(from.k_norm, device),
          .o = Linear(from.o, from.o_bias, device),
          .post_attention_norm = Vector(from.post_attention_norm, device),
          .gate = Linear(from.gate, from.gate_bias, device),
          .up = Linear(from.up, from.up_bias, device),
          .down = Linear(from.down, from.down_bias, device)};
}

at::Tensor Apply(const TorchLinear& linear, const at::Tensor& input) {
  return at::linear(input, linear.weight, linear.bias);
}

// [context, head_dim] from a table of one half.
at::Tensor BothHalves(std::vector<float>& half, int64_t context, at::ScalarType dtype) {
  const at::Tensor table = at::from_blob(
      half.data(), {context, static_cast<int64_t>(half.size()) / context}, at::kFloat);
  return at::cat({table, table}, -1).to(dtype);
}

// x: [1, heads, tokens, head_dim].
at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = x.size(-1) / 2;
  const at::Tensor turned = at::cat({x.narrow(-1, half, half).neg(), x.narrow(-1, 0, half)}, -1);
  return x * cos + turned * sin;
}

// Attention under a mask, [1, 1, tokens, keys], of queries that share KV heads in groups: gives
// [1, heads, tokens, head_dim]. transformers copies each KV head for every query head of its group,
// since torch's fused attention groups no heads under a mask. With KV heads in the place of the
// batch a group reads the one head: the same results without the copies.
at::Tensor MaskedAttention(const at::Tensor& queries, const at::Tensor& keys,
                           const at::Tensor& values, const at::Tensor& mask, double scale) {
  const int64_t kv_heads = keys.size(1), length = keys.size(2), head_dim = keys.size(3);
  const int64_t heads = queries.size(1), num_tokens = queries.size(2);
  const std::array<int64_t, 4> shared = {kv_heads, heads / kv_heads, length, head_dim};
  const auto share = [&](const at::Tensor& x) { return x.squeeze(0).unsqueeze(1).expand(shared); };
  return at::scaled_dot_product_attention(
             queries.view({kv_heads, heads / kv_heads, num_tokens, head_dim}), share(keys),
             share(values), mask, /*dropout_p=*/0.0, /*is_causal=*/false, scale)
      .reshape({1, heads, num_tokens, head_dim});
}

// REQUIRES: contiguous, fp32 or bf16, on the CPU.
bool AllFinite(const at::Tensor& x) {
  const int64_t n = x.numel();
  if (x.scalar_type() == at::kFloat) {
    const float* values = x.const_data_ptr<float>();
    return std::all_of(values, values + n, [](float value) { return std::isfinite(value); });
  }
  const auto* values = x.const_data_ptr<at::BFloat16>();
  return std::all_of(values, values + n,
                     [](at::BFloat16 value) { return (value.x & 0x7f80u) != 0x7f80u; });
}

// Finds the first stage after which the states of a step are not all finite.
class FiniteCheck {
 public:
  void Add(NumericFault stage, const at::Tensor& states) {
    if (!states.is_cpu()) {
      sums_.push_back(states.sum(at::kFloat));
      stages_.push_back(stage);
    } else if (fault_ == NumericFault::kNone && !AllFinite(states)) {
      fault_ = stage;
    }
  }

  // Waits for the device once for all stages: a sum is finite where its terms are.
  NumericFault Fault() {
    if (sums_.empty()) return fault_;
    const at::Tensor sums = at::stack(sums_).cpu();
    const float* const first = sums.const_data_ptr<float>();
    const float* const end = first + stages_.size();
    const float* const found =
        std::find_if_not(first, end, [](float x) { return std::isfinite(x); });
    return found == end ? NumericFault::kNone : stages_[static_cast<size_t>(found - first)];
  }

 private:
  NumericFault fault_ = NumericFault::kNone;
  std::vector<at::Tensor> sums_;  // one a stage, on the device
  std::vector<NumericFault> stages_;
};

}  // namespace

TorchModel::TorchModel(std::shared_ptr<const Weights> weights, uint32_t context_length,
                       c10::Device device)
    : weights_(std::move(weights)),
      device_(device),
      embedding_(Matrix(weights_->embedding(), device)),
      final_norm_(Vector(weights_->final_norm(), device)) {
  const ModelConfig& config = weights_->config();
  const bool tied = weights_->lm_head().data == weights_->embedding().data;
  head_ = tied ? TorchLinear{embedding_, std::nullopt} : Linear(weights_->lm_head(), {}, device);
  for (const LayerWeights& layer : weights_->layers()) layers_.push_back(Layer(layer, device));
  RopeTables rope = ComputeRopeTables(config.rope, config.head_dim, context_length);
  cos_ = BothHalves(rope.cos, context_length, TorchType(weights_->dtype())).to(device);
  sin_ = BothHalves(rope.sin, context_length, TorchType(weights_->dtype())).to(device);
}

TorchModel::Hidden TorchModel::Forward(std::span<const TokenId> tokens, TorchKvCache& cache) const {
  const auto num_tokens = static_cast<int64_t>(tokens.size());
  const Visibility visible = VisibleKeys(cache, num_tokens);
  const Rotation rotation = {cos_.narrow(0, cache.num_positions(), num_tokens),
                             sin_.narrow(0, cache.num_positions(), num_tokens)};
  at::Tensor ids = at::empty({1, num_tokens}, at::kLong);
  std::copy(tokens.begin(), tokens.end(), ids.mutable_data_ptr<int64_t>());

  Hidden hidden{at::embedding(embedding_, ids.to(device_))};
  FiniteCheck check;
  check.Add(NumericFault::kEmbedding, hidden.states);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const TorchLayer& layer = layers_[i];
    hidden.states.add_(
        Attention(i, Norm(hidden.states, layer.input_norm), rotation, visible, cache));
    check.Add(NumericFault::kAttention, hidden.states);
    const at::Tensor input = Norm(hidden.states, layer.post_attention_norm);
    hidden.states.add_(
        Apply(layer.down, at::silu(Apply(layer.gate, input)) * Apply(layer.up, input)));
    check.Add(NumericFault::kMlp, hidden.states);
  }
  hidden.states = Norm(hidden.states, final_norm_);
  hidden.fault = check.Fault();
  cache.Advance(num_tokens);
  return hidden;
}

at::Tensor TorchModel::Logits(const at::Tensor& states) const {
  return Apply(head_, states).squeeze(0).to(at::kCPU, at::kFloat).contiguous();
}

// A mask is made in the cases in which transformers makes one, since attention rounds differently
// with a mask: where the keys fill a sliding window, where reserved keys are not written yet, and
// for a run of tokens that is not a sequence's first.
TorchModel::Visibility TorchModel::VisibleKeys(const TorchKvCache& cache,
                                               int64_t num_tokens) const {
  const int64_t past = cache.num_positions();
  const auto [first, length] = cache.NextKeys(num_tokens);
  const std::optional<uint32_t> window = weights_->config().sliding_window;
  const bool windowed = window && length >= *window;
  const bool all_written = first + length == past + num_tokens;
  if (!windowed && num_tokens == 1 && all_written) return {};
  if (!windowed && num_tokens > 1 && past == 0) return {.mask = std::nullopt, .causal = true};
  const auto positions = at::device(device_).dtype(at::kLong);
  const at::Tensor queries = at::arange(past, past + num_tokens, positions).unsqueeze(1);
  const at::Tensor keys = at::arange(first, first + length, positions).unsqueeze(0);
  at::Tensor mask = keys.le(queries);
  if (window) mask = mask & keys.gt(queries - int64_t{*window});
  return {.mask = mask.unsqueeze(0).unsqueeze(0)};
}

at::Tensor TorchModel::Attention(size_t index, const at::Tensor& input, const Rotation& rotation,
                                 const Visibility& visible, TorchKvCache& cache) const {
  const TorchLayer& layer = layers_[index];
  const ModelConfig& config = weights_->config();
  const int64_t num_tokens = input.size(1);
  const auto heads = [&](const TorchLinear& projection, const at::Tensor& norm) {
    at::Tensor x = Apply(projection, input).view({1, num_tokens, -1, config.head_dim});
    if (norm.defined()) x = Norm(x, norm);
    return x.transpose(1, 2);
  };
  const at::Tensor queries = Rotate(heads(layer.q, layer.q_norm), rotation.cos, rotation.sin);
  auto [keys, values] =
      cache.Append(index, Rotate(heads(layer.k, layer.k_norm), rotation.cos, rotation.sin),
                   heads(layer.v, at::Tensor()));
  if (visible.causal) {
    keys = keys.narrow(2, 0, num_tokens);
    values = values.narrow(2, 0, num_tokens);
  }
  const double scale = 1.0 / std::sqrt(static_cast<double>(config.head_dim));
  const at::Tensor mixed =
      visible.mask
          ? MaskedAttention(queries, keys, values, *visible.mask, scale)
          : at::scaled_dot_product_attention(queries, keys, values, std::nullopt, /*dropout_p=*/0.0,
                                             visible.causal, scale,
                                             /*enable_gqa=*/config.num_heads > config.num_kv_heads);
  return Apply(layer.o, mixed.transpose(1, 2).reshape({1, num_tokens, -1}));
}

// Over the last dimension, in fp32; rounded before and after the product with the weight.
at::Tensor TorchModel::Norm(const at::Tensor& input, const at::Tensor& weight) const {
  const at::Tensor x = input.to(at::kFloat);
  const at::Tensor variance = x.pow(2).mean(-1, /*keepdim=*/true);
  const at::Tensor scaled = x * at::rsqrt(variance + weights_->config().rms_norm_eps);
  return weight * scaled.to(input.scalar_type());
}

}  // namespace quire
