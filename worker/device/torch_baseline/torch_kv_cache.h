#ifndef QUIRE_WORKER_DEVICE_TORCH_BASELINE_TORCH_KV_CACHE_H_
#define QUIRE_WORKER_DEVICE_TORCH_BASELINE_TORCH_KV_CACHE_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "scheduler/batch/step_plan.h"

namespace quire {

struct TorchKvShape {
  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  at::ScalarType dtype = at::kFloat;
  c10::Device device = at::kCPU;
  // A key this many positions before a query, or more, is not visible to it. Absent: all are.
  std::optional<int64_t> sliding_window;
};

// Keys and values of one sequence, contiguous, a pair of tensors a layer.
//
// A step of n positions asks NextKeys(n), calls Append once for each layer, then Advance(n).
// Functions throw what torch throws. Not thread safe.
class TorchKvCache {
 public:
  virtual ~TorchKvCache() = default;

  // Which positions attention reads in a step: [first, first + length). Those at or beyond the
  // step's own end are reserved but not written, and are to be masked.
  struct KeyRange {
    int64_t first = 0;
    int64_t length = 0;
  };
  virtual KeyRange NextKeys(int64_t num_tokens) const = 0;

  // Takes in a layer's new positions, [1, kv_heads, n, head_dim], and gives what attention reads,
  // [1, kv_heads, NextKeys(n).length, head_dim].
  struct View {
    at::Tensor keys;
    at::Tensor values;
  };
  virtual View Append(size_t layer, const at::Tensor& keys, const at::Tensor& values) = 0;

  void Advance(int64_t num_tokens) { num_positions_ += num_tokens; }

  // Forgets the sequence.
  virtual void Clear() = 0;

  // Positions taken in so far.
  int64_t num_positions() const { return num_positions_; }

  virtual KvBytes bytes() const = 0;

 protected:
  int64_t num_positions_ = 0;
};

// Grows by concatenation, as Hugging Face's DynamicCache: every step copies it. With a sliding
// window the last window − 1 positions stay.
std::unique_ptr<TorchKvCache> MakeDynamicKvCache(const TorchKvShape& shape);

// Reserved for `max_length` positions at once, or for the sliding window if that is less, as
// Hugging Face's StaticCache. Attention reads all of it. A full window moves up by copying.
std::unique_ptr<TorchKvCache> MakeStaticKvCache(const TorchKvShape& shape, int64_t max_length);

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_TORCH_BASELINE_TORCH_KV_CACHE_H_
