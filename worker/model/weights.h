#ifndef QUIRE_WORKER_MODEL_WEIGHTS_H_
#define QUIRE_WORKER_MODEL_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/cast.h"
#include "worker/model/dtype.h"
#include "worker/model/model_config.h"

// The tensors of a Llama-family model by role, in one dtype, checked against the config's shapes.
namespace quire {

// A read-only view of a row-major matrix [rows, cols], or of a vector [rows] with cols == 1. Rows
// are not padded. `data` is aligned to the element size at least. A view without data stands for a
// tensor that the model does not have.
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  uint64_t rows = 0;
  uint64_t cols = 0;

  explicit operator bool() const { return data != nullptr; }
  uint64_t num_elements() const { return rows * cols; }
  uint64_t num_bytes() const { return num_elements() * SizeOf(dtype); }
  // REQUIRES: the dtype is kF32; kBF16 or kF16.
  const float* f32() const { return static_cast<const float*>(data); }
  const uint16_t* bits16() const { return static_cast<const uint16_t*>(data); }
};

// Projections are [outputs, inputs] as Hugging Face stores them: y = x · Wᵀ + b.
struct LayerWeights {
  WeightView input_norm;              // [hidden]
  WeightView q, k, v;                 // [q_size or kv_size, hidden]
  WeightView q_bias, k_bias, v_bias;  // [q_size or kv_size]; with config.qkv_bias
  WeightView q_norm, k_norm;          // [head_dim]; with config.qk_norm
  WeightView o;                       // [hidden, q_size]
  WeightView o_bias;                  // [hidden]; with config.attn_output_bias
  WeightView post_attention_norm;     // [hidden]
  WeightView gate, up;                // [intermediate, hidden]
  WeightView gate_bias, up_bias;      // [intermediate]; with config.mlp_bias
  WeightView down;                    // [hidden, intermediate]
  WeightView down_bias;               // [hidden]; with config.mlp_bias
};

enum class LoadFormat : uint8_t {
  kSafetensors,
  // Random weights from the config alone (dummy_weights.h): the same code path and speed as real
  // ones.
  kDummy,
};

struct LoadOptions {
  LoadFormat format = LoadFormat::kSafetensors;
  // What the views come in. Empty: config.dtype, else the dtype that the embedding is stored in;
  // where that is fp16, in which nothing here computes, fp32, which holds all of its values.
  std::optional<DType> dtype;
  // Clamp values that the dtype cannot hold to its largest instead of failing.
  bool allow_overflow = false;
  uint32_t num_threads = 1;
};

// The name and the content of one tensor, for numerics_id.
struct WeightDigest {
  std::string name;
  std::string digest;
};

// All weights of a model. Immutable after Load, so any number of threads may read it; views live as
// long as it does. Tensors that need no cast point into the mapped file and cost no memory of their
// own until they are read.
class Weights {
 public:
  // Errors: a file that cannot be read (safetensors.h); a tensor that is missing, misshapen or of a
  // dtype that is not floating point, by its name (InvalidArgument); values that the dtype cannot
  // hold, by tensor and count (OutOfRange).
  static absl::StatusOr<std::shared_ptr<const Weights>> Load(const std::string& folder,
                                                             const ModelConfig& config,
                                                             const LoadOptions& options);

  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  const ModelConfig& config() const { return config_; }
  DType dtype() const { return dtype_; }
  const WeightView& embedding() const { return embedding_; }  // [vocab, hidden]
  const std::vector<LayerWeights>& layers() const { return layers_; }
  const WeightView& final_norm() const { return final_norm_; }  // [hidden]
  // [vocab, hidden]; the same memory as embedding() when tied.
  const WeightView& lm_head() const { return lm_head_; }

  // Sum over distinct tensors, in dtype().
  uint64_t num_bytes() const { return num_bytes_; }
  // One sentence a line for the log: clamped or flushed values, tensors of the checkpoint that the
  // model does not use.
  const std::vector<std::string>& warnings() const { return warnings_; }

  // One entry a tensor, ordered by name: digests of what the checkpoint stores, before any cast;
  // for dummy weights of what determines them. Reads all weights: about a second a GB and thread.
  std::vector<WeightDigest> ComputeDigests(uint32_t num_threads) const;

 private:
  friend class WeightsBuilder;
  Weights();

  ModelConfig config_;
  DType dtype_ = DType::kF32;
  WeightView embedding_;
  std::vector<LayerWeights> layers_;
  WeightView final_norm_;
  WeightView lm_head_;
  uint64_t num_bytes_ = 0;
  std::vector<std::string> warnings_;
  struct Storage;
  std::unique_ptr<Storage> storage_;
};

// The range table of a checkpoint, ordered by tensor name: what would happen to each tensor in each
// dtype.
absl::StatusOr<std::vector<TensorRange>> InspectCheckpoint(const std::string& folder,
                                                           uint32_t num_threads);

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_WEIGHTS_H_
