#include "worker/device/torch_baseline/torch_kv_cache.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "scheduler/check.h"

namespace quire {
namespace {

constexpr int64_t kPositionDim = 2;

// Without a window, one that no sequence fills.
int64_t Window(const TorchKvShape& shape) {
  return shape.sliding_window.value_or(std::numeric_limits<int64_t>::max() / 2);
}

at::Tensor Last(const at::Tensor& positions, int64_t count) {
  const int64_t length = positions.size(kPositionDim);
  const int64_t kept = std::min(length, count);
  return positions.narrow(kPositionDim, length - kept, kept);
}

class DynamicKvCache final : public TorchKvCache {
 public:
  explicit DynamicKvCache(const TorchKvShape& shape)
      : window_(Window(shape)), layers_(static_cast<size_t>(shape.num_layers)) {}

  KeyRange NextKeys(int64_t num_tokens) const override {
    const int64_t first = std::max<int64_t>(num_positions_ - window_ + 1, 0);
    return {first, num_positions_ + num_tokens - first};
  }

  View Append(size_t layer, const at::Tensor& keys, const at::Tensor& values) override {
    View& held = layers_[layer];
    const View all = held.keys.defined() ? View{at::cat({held.keys, keys}, kPositionDim),
                                                at::cat({held.values, values}, kPositionDim)}
                                         : View{keys.contiguous(), values.contiguous()};
    held.keys = Last(all.keys, window_ - 1);
    held.values = Last(all.values, window_ - 1);
    return all;
  }

  void Clear() override {
    num_positions_ = 0;
    std::fill(layers_.begin(), layers_.end(), View{});
  }

  KvBytes bytes() const override {
    KvBytes bytes;
    for (const View& layer : layers_) {
      if (!layer.keys.defined()) continue;
      bytes.reserved += layer.keys.storage().nbytes() + layer.values.storage().nbytes();
      bytes.used += layer.keys.nbytes() + layer.values.nbytes();
    }
    return bytes;
  }

 private:
  const int64_t window_;
  std::vector<View> layers_;  // without tensors until the first Append
};

class StaticKvCache final : public TorchKvCache {
 public:
  StaticKvCache(const TorchKvShape& shape, int64_t max_length)
      : window_(Window(shape)), capacity_(std::min(window_, max_length)) {
    const auto reserve = [&] {
      return at::zeros({1, shape.num_kv_heads, capacity_, shape.head_dim},
                       at::device(shape.device).dtype(shape.dtype));
    };
    layers_.reserve(static_cast<size_t>(shape.num_layers));
    for (int64_t i = 0; i < shape.num_layers; ++i) layers_.push_back({reserve(), reserve()});
  }

  KeyRange NextKeys(int64_t num_tokens) const override {
    if (Fits(num_tokens)) return {0, capacity_};
    const int64_t first = std::max<int64_t>(num_positions_ - window_ + 1, 0);
    return {first, num_positions_ + num_tokens - first};
  }

  View Append(size_t layer, const at::Tensor& keys, const at::Tensor& values) override {
    View& held = layers_[layer];
    const int64_t num_tokens = keys.size(kPositionDim);
    if (Fits(num_tokens)) {
      held.keys.narrow(kPositionDim, num_positions_, num_tokens).copy_(keys);
      held.values.narrow(kPositionDim, num_positions_, num_tokens).copy_(values);
      return held;
    }
    QUIRE_CHECK(capacity_ == window_);
    const View all = {at::cat({Recent(held.keys), keys}, kPositionDim),
                      at::cat({Recent(held.values), values}, kPositionDim)};
    held.keys.copy_(Last(all.keys, capacity_));
    held.values.copy_(Last(all.values, capacity_));
    return all;
  }

  // Zeroes what was written: a masked position weighs 0, and 0 · NaN would be NaN.
  void Clear() override {
    for (View& layer : layers_) {
      layer.keys.narrow(kPositionDim, 0, num_held()).zero_();
      layer.values.narrow(kPositionDim, 0, num_held()).zero_();
    }
    num_positions_ = 0;
  }

  KvBytes bytes() const override {
    KvBytes bytes;
    for (const View& layer : layers_) bytes.reserved += layer.keys.nbytes() + layer.values.nbytes();
    bytes.used =
        bytes.reserved / static_cast<uint64_t>(capacity_) * static_cast<uint64_t>(num_held());
    return bytes;
  }

 private:
  int64_t num_held() const { return std::min(num_positions_, capacity_); }
  bool Fits(int64_t num_tokens) const { return num_positions_ + num_tokens <= capacity_; }

  // The held positions that a query at num_positions_ sees.
  at::Tensor Recent(const at::Tensor& held) const {
    return Last(held.narrow(kPositionDim, 0, num_held()), window_ - 1);
  }

  const int64_t window_;
  const int64_t capacity_;  // positions
  std::vector<View>
      layers_;  // position p at p, until the window is full; then the latest at the end
};

}  // namespace

std::unique_ptr<TorchKvCache> MakeDynamicKvCache(const TorchKvShape& shape) {
  return std::make_unique<DynamicKvCache>(shape);
}

std::unique_ptr<TorchKvCache> MakeStaticKvCache(const TorchKvShape& shape, int64_t max_length) {
  return std::make_unique<StaticKvCache>(shape, max_length);
}

}  // namespace quire
