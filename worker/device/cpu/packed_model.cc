#include "worker/device/cpu/packed_model.h"

#include <algorithm>
#include <initializer_list>
#include <type_traits>
#include <utility>

#include "worker/device/cpu/gemm/bf16.h"

namespace quire {
namespace {

template <typename T>
constexpr GemmDtype kGemmDtype = std::is_same_v<T, float> ? GemmDtype::kFp32 : GemmDtype::kBf16;

float Widen(float value) { return value; }
float Widen(Bf16 value) { return ToFloat(value); }

template <typename T>
const T* Data(const WeightView& view) {
  return static_cast<const T*>(view.data);
}

template <typename T>
std::vector<T> CopyVector(const WeightView& view) {
  if (!view) return {};
  return std::vector<T>(Data<T>(view), Data<T>(view) + view.num_elements());
}

// Biases one after the other, in fp32. Empty if the model has none.
template <typename T>
std::vector<float> StackBiases(std::initializer_list<const WeightView*> views) {
  std::vector<float> stacked;
  for (const WeightView* view : views) {
    if (!*view) continue;
    std::transform(Data<T>(*view), Data<T>(*view) + view->num_elements(),
                   std::back_inserter(stacked), [](T value) { return Widen(value); });
  }
  return stacked;
}

// Matrices stacked along their outputs.
template <typename T>
absl::StatusOr<PackedWeights> Stack(std::initializer_list<const WeightView*> views,
                                    ThreadPool& pool) {
  int64_t num_outputs = 0;
  for (const WeightView* view : views) num_outputs += static_cast<int64_t>(view->rows);
  const int64_t num_inputs = static_cast<int64_t>((*views.begin())->cols);
  absl::StatusOr<PackedWeights> packed =
      PackedWeights::Create(kGemmDtype<T>, num_outputs, num_inputs);
  if (!packed.ok()) return packed;
  pool.Run([&](ThreadContext& context) {
    int64_t first_output = 0;
    for (const WeightView* view : views) {
      const int64_t rows = static_cast<int64_t>(view->rows);
      context.ForEachChunk(rows, PackedWeights::kPanelWidth, [&](int64_t begin, int64_t end) {
        packed->PackRows(first_output + begin, end - begin, Data<T>(*view) + begin * num_inputs);
      });
      first_output += rows;
    }
  });
  return packed;
}

}  // namespace

template <typename T>
void PackedModel<T>::CopyEmbedding(uint32_t token, int64_t hidden_size, T* out) const {
  if (embedding != nullptr) {
    std::copy_n(embedding + token * hidden_size, hidden_size, out);
  } else {
    lm_head.CopyRow(token, out);
  }
}

template <typename T>
uint64_t PackedModel<T>::bytes() const {
  uint64_t bytes = lm_head.size_bytes();
  for (const PackedLayer<T>& layer : layers) {
    bytes += layer.qkv.size_bytes() + layer.o.size_bytes() + layer.gate_up.size_bytes() +
             layer.down.size_bytes();
  }
  return bytes;
}

template <typename T>
absl::StatusOr<PackedModel<T>> PackModel(std::shared_ptr<const Weights> weights,
                                         const TensorShard& shard, ThreadPool& pool) {
  const ShardWeights part = SliceWeights(*weights, shard);
  PackedModel<T> model;
  absl::Status status;
  const auto stack = [&](std::initializer_list<const WeightView*> views, PackedWeights* out) {
    if (!status.ok()) return;
    absl::StatusOr<PackedWeights> packed = Stack<T>(views, pool);
    if (packed.ok()) {
      *out = *std::move(packed);
    } else {
      status = packed.status();
    }
  };
  model.layers.resize(part.layers.size());
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const LayerWeights& from = part.layers[i];
    PackedLayer<T>& to = model.layers[i];
    to.input_norm = CopyVector<T>(from.input_norm);
    to.q_norm = CopyVector<T>(from.q_norm);
    to.k_norm = CopyVector<T>(from.k_norm);
    to.post_attention_norm = CopyVector<T>(from.post_attention_norm);
    stack({&from.q, &from.k, &from.v}, &to.qkv);
    stack({&from.o}, &to.o);
    stack({&from.gate, &from.up}, &to.gate_up);
    stack({&from.down}, &to.down);
    to.qkv_bias = StackBiases<T>({&from.q_bias, &from.k_bias, &from.v_bias});
    to.o_bias = StackBiases<T>({&from.o_bias});
    to.gate_up_bias = StackBiases<T>({&from.gate_bias, &from.up_bias});
    to.down_bias = StackBiases<T>({&from.down_bias});
  }
  model.final_norm = CopyVector<T>(part.final_norm);
  stack({&part.lm_head}, &model.lm_head);
  if (!status.ok()) return status;
  if (!part.has_tied_lm_head || shard.size > 1) {
    model.embedding = Data<T>(part.embedding);
    model.weights = std::move(weights);
  }
  return model;
}

template struct PackedModel<float>;
template struct PackedModel<Bf16>;
template absl::StatusOr<PackedModel<float>> PackModel<float>(std::shared_ptr<const Weights>,
                                                             const TensorShard&, ThreadPool&);
template absl::StatusOr<PackedModel<Bf16>> PackModel<Bf16>(std::shared_ptr<const Weights>,
                                                           const TensorShard&, ThreadPool&);

}  // namespace quire
