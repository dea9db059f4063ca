#ifndef QUIRE_TESTS_WORKER_DEVICE_CUDA_ATTENTION_SCENE_H_
#define QUIRE_TESTS_WORKER_DEVICE_CUDA_ATTENTION_SCENE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "tests/worker/device/cuda/gpu_test.h"
#include "worker/device/cuda/kernels/attention.h"

// Sequences with keys and values in a store on the device, and attention over their rows.
namespace quire::cuda {

struct Shape {
  DType dtype = DType::kBF16;
  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t block_size = 0;
  uint32_t window = 0;
};

struct Row {
  int sequence = 0;
  int position = 0;
};

// The bits of a row's output: [num_heads · head_dim].
using RowBits = std::vector<uint32_t>;

// How rows are decoded.
struct DecodeWay {
  bool splits = false;      // each segment is an item of its own
  int extra_segments = 0;   // planned beyond the one that the row is in
  uint32_t num_blocks = 0;  // 0: what the device holds
  bool exact = true;        // AttentionArgs::exact; false: tiles instead of segments
};

// What a launch needs of its rows, on the device.
struct Batch {
  Batch(size_t num_rows, size_t row_bytes, size_t query_bytes, size_t part_floats, size_t max_items,
        uint32_t num_kv_heads);

  // REQUIRES: at most max_items.
  void SetItems(std::vector<DecodeItem> values);

  DeviceArray<uint8_t> queries;
  DeviceArray<uint8_t> outputs;
  DeviceArray<int32_t> row_slots;
  DeviceArray<int32_t> row_positions;
  DeviceArray<float> partials;
  DeviceArray<uint32_t> arrivals;
  DeviceArray<DecodeItem> items;
  DeviceArray<uint32_t> num_items;
  AttentionArgs args;
};

class Scene {
 public:
  // Sequence s has `stored[s]` positions in the store; every other element there is NaN, and a
  // block table names no block beyond them. What queries, keys and values are depends on sequence
  // and position alone; `placement` says in which blocks they lie.
  Scene(const Shape& shape, std::vector<int> stored, uint32_t placement);

  // Outputs of the rows, in their order. Expects that `arrivals` is left zero.
  std::vector<RowBits> Decode(const std::vector<Row>& rows, const DecodeWay& way) const;
  // Tiles end where a sequence ends or a tile is full, and at random places if `random` is not
  // null.
  std::vector<RowBits> Prefill(const std::vector<Row>& rows, std::mt19937* random) const;

  // The parts of Decode, for tests that launch on their own. max_items: at least one a row.
  std::unique_ptr<Batch> MakeBatch(const std::vector<Row>& rows, size_t max_items) const;
  std::vector<DecodeItem> MakeItems(const std::vector<Row>& rows, const DecodeWay& way) const;
  std::vector<RowBits> Outputs(const Batch& batch, size_t num_rows) const;

  // A row's attention in double precision, and what bits stand for.
  std::vector<double> Reference(const Row& row) const;
  std::vector<double> Values(const RowBits& bits) const;

 private:
  enum Kind { kQuery, kKey, kValue };

  size_t RowElements() const { return size_t{shape_.num_heads} * shape_.head_dim; }
  uint32_t QueryStride() const {
    return (shape_.num_heads + 2 * shape_.num_kv_heads) * shape_.head_dim;
  }
  // As the dtype holds it.
  float Element(Kind kind, int sequence, int position, uint32_t head, uint32_t column) const;
  void Put(float value, size_t index, std::vector<uint8_t>& to) const;

  Shape shape_;
  std::vector<int> stored_;
  uint32_t table_stride_ = 0;
  DeviceArray<uint8_t> kv_;
  DeviceArray<int32_t> tables_;
};

}  // namespace quire::cuda

#endif  // QUIRE_TESTS_WORKER_DEVICE_CUDA_ATTENTION_SCENE_H_
