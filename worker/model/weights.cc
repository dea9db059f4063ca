#include "worker/model/weights.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <utility>

#include "worker/model/dummy_weights.h"
#include "worker/model/parallel.h"
#include "worker/model/safetensors.h"
#include "worker/model/sha256.h"
#include "worker/model/str_cat.h"

namespace quire {
namespace {

constexpr char kEmbeddingName[] = "model.embed_tokens.weight";
constexpr char kLmHeadName[] = "lm_head.weight";

// Work is shared out in pieces of this many elements or bytes.
constexpr uint64_t kPieceElements = uint64_t{1} << 20;
constexpr uint64_t kPieceBytes = uint64_t{16} << 20;
constexpr size_t kBufferAlignment = 64;

std::optional<DType> DTypeFromStored(std::string_view dtype) {
  if (dtype == "F32") return DType::kF32;
  if (dtype == "BF16") return DType::kBF16;
  if (dtype == "F16") return DType::kF16;
  return std::nullopt;
}

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<void, FreeDeleter>;

// One tensor that the model needs.
struct Slot {
  std::string name;
  std::vector<uint64_t> shape;
  WeightView* view;
  const Checkpoint::Entry* entry = nullptr;  // null: dummy
};

}  // namespace

struct Weights::Storage {
  std::unique_ptr<Checkpoint> checkpoint;  // null: dummy
  std::vector<Buffer> buffers;
  std::vector<std::pair<std::string, const StoredTensor*>> tensors;  // used, by name; null: dummy
};

Weights::Weights() : storage_(std::make_unique<Storage>()) {}
Weights::~Weights() = default;

class WeightsBuilder {
 public:
  WeightsBuilder(const ModelConfig& config, const LoadOptions& options)
      : config_(config), options_(options), weights_(new Weights) {
    weights_->config_ = config;
    weights_->layers_.resize(config.num_layers);
  }

  absl::StatusOr<std::shared_ptr<const Weights>> Build(const std::string& folder) {
    if (options_.format == LoadFormat::kSafetensors) {
      absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(folder);
      if (!checkpoint.ok()) return checkpoint.status();
      weights_->storage_->checkpoint = *std::move(checkpoint);
    }
    ListSlots();
    absl::Status status = FindTensors();
    if (status.ok()) status = Fill();
    if (!status.ok()) return status;
    if (!weights_->lm_head_) weights_->lm_head_ = weights_->embedding_;
    WarnOfUnusedTensors();
    return std::shared_ptr<const Weights>(std::move(weights_));
  }

 private:
  const Checkpoint* checkpoint() const { return weights_->storage_->checkpoint.get(); }

  void Need(std::string name, std::vector<uint64_t> shape, WeightView* view) {
    slots_.push_back({std::move(name), std::move(shape), view});
  }

  void ListSlots() {
    const uint64_t hidden = config_.hidden_size;
    const uint64_t inner = config_.intermediate_size;
    const uint64_t q_size = config_.q_size();
    const uint64_t kv_size = config_.kv_size();
    Need(kEmbeddingName, {config_.vocab_size, hidden}, &weights_->embedding_);
    for (uint32_t i = 0; i < config_.num_layers; ++i) {
      LayerWeights& layer = weights_->layers_[i];
      const std::string prefix = StrCat("model.layers.", i, ".");
      const std::string attention = prefix + "self_attn.";
      const std::string mlp = prefix + "mlp.";
      Need(prefix + "input_layernorm.weight", {hidden}, &layer.input_norm);
      Need(attention + "q_proj.weight", {q_size, hidden}, &layer.q);
      Need(attention + "k_proj.weight", {kv_size, hidden}, &layer.k);
      Need(attention + "v_proj.weight", {kv_size, hidden}, &layer.v);
      Need(attention + "o_proj.weight", {hidden, q_size}, &layer.o);
      if (config_.qkv_bias) {
        Need(attention + "q_proj.bias", {q_size}, &layer.q_bias);
        Need(attention + "k_proj.bias", {kv_size}, &layer.k_bias);
        Need(attention + "v_proj.bias", {kv_size}, &layer.v_bias);
      }
      if (config_.attn_output_bias) Need(attention + "o_proj.bias", {hidden}, &layer.o_bias);
      if (config_.qk_norm) {
        Need(attention + "q_norm.weight", {config_.head_dim}, &layer.q_norm);
        Need(attention + "k_norm.weight", {config_.head_dim}, &layer.k_norm);
      }
      Need(prefix + "post_attention_layernorm.weight", {hidden}, &layer.post_attention_norm);
      Need(mlp + "gate_proj.weight", {inner, hidden}, &layer.gate);
      Need(mlp + "up_proj.weight", {inner, hidden}, &layer.up);
      Need(mlp + "down_proj.weight", {hidden, inner}, &layer.down);
      if (config_.mlp_bias) {
        Need(mlp + "gate_proj.bias", {inner}, &layer.gate_bias);
        Need(mlp + "up_proj.bias", {inner}, &layer.up_bias);
        Need(mlp + "down_proj.bias", {hidden}, &layer.down_bias);
      }
    }
    Need("model.norm.weight", {hidden}, &weights_->final_norm_);
    if (HasOwnLmHead()) Need(kLmHeadName, {config_.vocab_size, hidden}, &weights_->lm_head_);
  }

  // transformers does not tie what a checkpoint stores twice with different values, whatever the
  // config says.
  bool HasOwnLmHead() {
    if (!config_.tie_word_embeddings) return true;
    if (checkpoint() == nullptr) return false;
    const Checkpoint::Entry* embedding = checkpoint()->Find(kEmbeddingName);
    const Checkpoint::Entry* head = checkpoint()->Find(kLmHeadName);
    if (head == nullptr) return false;
    used_.insert(kLmHeadName);
    if (embedding == nullptr) {  // the other way round: the embedding is the head
      slots_.front().name = kLmHeadName;
      return false;
    }
    if (embedding->tensor->dtype == head->tensor->dtype &&
        embedding->tensor->shape == head->tensor->shape &&
        std::memcmp(embedding->tensor->data, head->tensor->data, head->tensor->num_bytes) == 0) {
      return false;
    }
    weights_->warnings_.push_back(StrCat(head->file->path(), ": tie_word_embeddings is true, but ",
                                         kLmHeadName, " differs from ", kEmbeddingName,
                                         "; both are used, as transformers does"));
    return true;
  }

  absl::Status FindTensors() {
    if (checkpoint() != nullptr) {
      for (Slot& slot : slots_) {
        slot.entry = checkpoint()->Find(slot.name);
        if (slot.entry == nullptr) {
          return absl::InvalidArgumentError(StrCat(checkpoint()->folder(), ": tensor ", slot.name,
                                                   " of shape ", ShapeString(slot.shape),
                                                   " is missing"));
        }
        const StoredTensor& tensor = *slot.entry->tensor;
        if (tensor.shape != slot.shape) {
          return absl::InvalidArgumentError(StrCat(
              slot.entry->file->path(), ": tensor ", slot.name, " has shape ",
              ShapeString(tensor.shape), "; config.json asks for ", ShapeString(slot.shape)));
        }
        if (!DTypeFromStored(tensor.dtype)) {
          return absl::InvalidArgumentError(StrCat(slot.entry->file->path(), ": tensor ", slot.name,
                                                   " has dtype ", tensor.dtype,
                                                   "; F32, BF16 and F16 are supported"));
        }
      }
    }
    std::optional<DType> dtype = options_.dtype ? options_.dtype : config_.dtype;
    if (!dtype && checkpoint() != nullptr)
      dtype = DTypeFromStored(slots_.front().entry->tensor->dtype);
    if (!options_.dtype && dtype == DType::kF16) {
      dtype = DType::kF32;
      weights_->warnings_.push_back(
          StrCat("the checkpoint is in fp16, in which nothing here computes: it runs in fp32"));
    }
    weights_->dtype_ = dtype.value_or(DType::kF32);
    return absl::OkStatus();
  }

  // A part of a tensor that has to be cast or made.
  struct Piece {
    const Slot* slot;
    std::byte* to;
    uint64_t first;
    uint64_t count;
    CastCounts counts;
  };

  absl::Status Fill() {
    const DType dtype = weights_->dtype_;
    std::vector<Piece> pieces;
    for (const Slot& slot : slots_) {
      WeightView& view = *slot.view;
      view.dtype = dtype;
      view.rows = slot.shape[0];
      view.cols = slot.shape.size() > 1 ? slot.shape[1] : 1;
      weights_->num_bytes_ += view.num_bytes();
      weights_->storage_->tensors.emplace_back(
          slot.name, slot.entry == nullptr ? nullptr : slot.entry->tensor);
      if (slot.entry != nullptr && DTypeFromStored(slot.entry->tensor->dtype) == dtype &&
          reinterpret_cast<uintptr_t>(slot.entry->tensor->data) % SizeOf(dtype) == 0) {
        view.data = slot.entry->tensor->data;
        continue;
      }
      const uint64_t padded =
          (view.num_bytes() + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
      Buffer buffer(std::aligned_alloc(kBufferAlignment, padded));
      if (buffer == nullptr) {
        return absl::ResourceExhaustedError(
            StrCat("no memory for the ", padded, " bytes of tensor ", slot.name));
      }
      view.data = buffer.get();
      for (uint64_t first = 0; first < view.num_elements(); first += kPieceElements) {
        pieces.push_back({&slot,
                          static_cast<std::byte*>(buffer.get()) + first * SizeOf(dtype),
                          first,
                          std::min(kPieceElements, view.num_elements() - first),
                          {}});
      }
      weights_->storage_->buffers.push_back(std::move(buffer));
    }
    std::sort(weights_->storage_->tensors.begin(), weights_->storage_->tensors.end());
    ParallelFor(pieces.size(), options_.num_threads, [&](size_t i) { FillPiece(pieces[i]); });
    return JudgeCasts(pieces);
  }

  void FillPiece(Piece& piece) const {
    if (piece.slot->entry == nullptr) {
      FillDummyElements(piece.slot->name, config_, piece.first, piece.count, weights_->dtype_,
                        piece.to);
      return;
    }
    const StoredTensor& tensor = *piece.slot->entry->tensor;
    const DType stored = *DTypeFromStored(tensor.dtype);
    piece.counts = CastElements(tensor.data + piece.first * SizeOf(stored), stored, piece.to,
                                weights_->dtype_, piece.count);
  }

  absl::Status JudgeCasts(const std::vector<Piece>& pieces) {
    size_t i = 0;
    while (i < pieces.size()) {
      const Slot& slot = *pieces[i].slot;
      CastCounts counts;
      for (; i < pieces.size() && pieces[i].slot == &slot; ++i) counts += pieces[i].counts;
      if (counts.overflowed == 0 && counts.flushed == 0) continue;
      const std::string what =
          StrCat(slot.entry->file->path(), ": tensor ", slot.name, ", stored as ",
                 slot.entry->tensor->dtype, ": of ", slot.view->num_elements(), " values ",
                 counts.overflowed, " overflow ", DTypeName(weights_->dtype_), " and ",
                 counts.flushed, " become zero");
      if (counts.overflowed > 0 && !options_.allow_overflow) {
        return absl::OutOfRangeError(StrCat(what, "; --allow-overflow clamps them"));
      }
      weights_->warnings_.push_back(what);
    }
    return absl::OkStatus();
  }

  void WarnOfUnusedTensors() {
    if (checkpoint() == nullptr) return;
    for (const Slot& slot : slots_) used_.insert(slot.name);
    std::string names;
    size_t count = 0;
    for (const auto& [name, entry] : checkpoint()->tensors()) {
      // Older checkpoints store what rope.h computes.
      if (used_.contains(name) || name.ends_with("rotary_emb.inv_freq")) continue;
      if (count++ < 3) absl::StrAppend(&names, count == 1 ? "" : ", ", name);
    }
    if (count == 0) return;
    weights_->warnings_.push_back(StrCat(checkpoint()->folder(), ": ", count,
                                         " tensors are not used by this architecture: ", names,
                                         count > 3 ? ", ..." : ""));
  }

  const ModelConfig& config_;
  const LoadOptions& options_;
  std::unique_ptr<Weights> weights_;
  std::vector<Slot> slots_;
  std::set<std::string, std::less<>> used_;
};

absl::StatusOr<std::shared_ptr<const Weights>> Weights::Load(const std::string& folder,
                                                             const ModelConfig& config,
                                                             const LoadOptions& options) {
  return WeightsBuilder(config, options).Build(folder);
}

std::vector<WeightDigest> Weights::ComputeDigests(uint32_t num_threads) const {
  // A tensor's digest is that of its dtype, shape and the digests of its pieces, so that one large
  // tensor keeps all threads busy.
  struct Piece {
    const std::byte* data;
    uint64_t num_bytes;
    std::string digest;
  };
  std::vector<Piece> pieces;
  for (const auto& [name, tensor] : storage_->tensors) {
    if (tensor == nullptr) continue;
    for (uint64_t first = 0; first < tensor->num_bytes; first += kPieceBytes) {
      pieces.push_back(
          {tensor->data + first, std::min(kPieceBytes, tensor->num_bytes - first), {}});
    }
  }
  ParallelFor(pieces.size(), num_threads,
              [&](size_t i) { pieces[i].digest = Sha256Hex(pieces[i].data, pieces[i].num_bytes); });
  std::vector<WeightDigest> digests;
  auto piece = pieces.begin();
  for (const auto& [name, tensor] : storage_->tensors) {
    if (tensor == nullptr) {
      digests.push_back({name, DummyDigest(name, config_)});
      continue;
    }
    std::string text = StrCat(tensor->dtype, " ", ShapeString(tensor->shape));
    for (uint64_t first = 0; first < tensor->num_bytes; first += kPieceBytes)
      text += (piece++)->digest;
    digests.push_back({name, Sha256Hex(text)});
  }
  return digests;
}

absl::StatusOr<std::vector<TensorRange>> InspectCheckpoint(const std::string& folder,
                                                           uint32_t num_threads) {
  const absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(folder);
  if (!checkpoint.ok()) return checkpoint.status();
  std::vector<TensorRange> ranges;
  std::vector<const StoredTensor*> tensors;
  for (const auto& [name, entry] : (*checkpoint)->tensors()) {
    const StoredTensor& tensor = *entry.tensor;
    TensorRange range;
    range.name = name;
    range.dtype = tensor.dtype;
    range.shape = ShapeString(tensor.shape);
    range.num_bytes = tensor.num_bytes;
    range.num_elements = 1;
    for (uint64_t size : tensor.shape) range.num_elements *= size;
    ranges.push_back(std::move(range));
    tensors.push_back(&tensor);
  }
  ParallelFor(ranges.size(), num_threads, [&](size_t i) {
    const std::optional<DType> dtype = DTypeFromStored(tensors[i]->dtype);
    if (dtype) AccumulateRange(tensors[i]->data, *dtype, ranges[i].num_elements, &ranges[i]);
  });
  return ranges;
}

}  // namespace quire
