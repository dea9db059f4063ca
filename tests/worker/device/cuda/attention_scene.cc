#include "tests/worker/device/cuda/attention_scene.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "worker/device/cuda/kernels/kv_layout.h"

namespace quire::cuda {
namespace {

constexpr int kSegmentsPerItem = 3;  // of a row in parts, at most

// A draw from [-1, 1) that depends on the key alone (splitmix64's mixing).
float Draw(uint64_t key) {
  uint64_t x = key * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  return static_cast<float>(static_cast<double>(x >> 40) * 0x1p-23 - 1.0);
}

float Scale(const Shape& shape) { return 1.0f / std::sqrt(static_cast<float>(shape.head_dim)); }

}  // namespace

Batch::Batch(size_t num_rows, size_t row_bytes, size_t query_bytes, size_t part_floats,
             size_t max_items, uint32_t num_kv_heads)
    : queries(num_rows * query_bytes),
      outputs(num_rows * row_bytes),
      row_slots(num_rows),
      row_positions(num_rows),
      partials(kSegmentsPerItem * max_items * part_floats),
      arrivals(std::vector<uint32_t>(kSegmentsPerItem * max_items * num_kv_heads, 0)),
      items(max_items),
      num_items(1) {}

void Batch::SetItems(std::vector<DecodeItem> values) {
  num_items.Write({static_cast<uint32_t>(values.size())});
  values.resize(items.size());
  items.Write(values);
}

Scene::Scene(const Shape& shape, std::vector<int> stored, uint32_t placement)
    : shape_(shape), stored_(std::move(stored)), kv_(0), tables_(0) {
  const KvLayout layout{shape.num_kv_heads, shape.block_size, shape.head_dim};
  const int block_size = static_cast<int>(shape.block_size);
  uint32_t num_blocks = 5;  // free ones
  for (const int length : stored_) {
    const uint32_t blocks = static_cast<uint32_t>((length + block_size - 1) / block_size);
    num_blocks += blocks;
    table_stride_ = std::max(table_stride_, blocks);
  }
  table_stride_ += 1 + placement % 3;
  std::vector<int32_t> order(num_blocks);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(placement);
  std::shuffle(order.begin(), order.end(), random);

  std::vector<uint8_t> kv(num_blocks * layout.block_stride() * SizeOf(shape.dtype), 0xff);  // NaN
  std::vector<int32_t> tables(stored_.size() * table_stride_, std::numeric_limits<int32_t>::max());
  size_t next = 0;
  for (size_t sequence = 0; sequence < stored_.size(); ++sequence) {
    int32_t* table = tables.data() + sequence * table_stride_;
    for (int position = 0; position < stored_[sequence]; ++position) {
      if (position % block_size == 0) table[position / block_size] = order[next++];
      for (uint32_t head = 0; head < shape.num_kv_heads; ++head) {
        const size_t at = layout.key(static_cast<uint32_t>(table[position / block_size]), head,
                                     static_cast<uint32_t>(position % block_size));
        for (uint32_t i = 0; i < shape.head_dim; ++i) {
          const int s = static_cast<int>(sequence);
          Put(Element(kKey, s, position, head, i), at + i, kv);
          Put(Element(kValue, s, position, head, i), at + layout.value_offset() + i, kv);
        }
      }
    }
  }
  kv_ = DeviceArray<uint8_t>(kv);
  tables_ = DeviceArray<int32_t>(tables);
}

float Scene::Element(Kind kind, int sequence, int position, uint32_t head, uint32_t column) const {
  uint64_t key = static_cast<uint64_t>(kind);
  for (const uint64_t part : {static_cast<uint64_t>(sequence), static_cast<uint64_t>(position),
                              uint64_t{head}, uint64_t{column}}) {
    key = key * 4096 + part;
  }
  // Scores then have a deviation of about 2: some keys weigh much, most count.
  const float value = Draw(key) * (kind == kValue ? 1.0f : 2.4f);
  return shape_.dtype == DType::kF32 ? value : FloatFromBf16(Bf16FromFloat(value));
}

void Scene::Put(float value, size_t index, std::vector<uint8_t>& to) const {
  if (shape_.dtype == DType::kF32) {
    std::memcpy(&to[4 * index], &value, 4);
  } else {
    const uint16_t bits = Bf16FromFloat(value);
    std::memcpy(&to[2 * index], &bits, 2);
  }
}

std::unique_ptr<Batch> Scene::MakeBatch(const std::vector<Row>& rows, size_t max_items) const {
  const size_t size = SizeOf(shape_.dtype);
  auto batch = std::make_unique<Batch>(rows.size(), RowElements() * size, QueryStride() * size,
                                       PartialFloats(shape_.num_heads, shape_.head_dim), max_items,
                                       shape_.num_kv_heads);
  std::vector<uint8_t> queries(rows.size() * QueryStride() * size, 0xff);
  std::vector<int32_t> slots;
  std::vector<int32_t> positions;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (uint32_t head = 0; head < shape_.num_heads; ++head) {
      for (uint32_t i = 0; i < shape_.head_dim; ++i) {
        Put(Element(kQuery, rows[r].sequence, rows[r].position, head, i),
            r * QueryStride() + head * shape_.head_dim + i, queries);
      }
    }
    slots.push_back(rows[r].sequence);
    positions.push_back(rows[r].position);
  }
  batch->queries.Write(queries);
  batch->row_slots.Write(slots);
  batch->row_positions.Write(positions);

  AttentionArgs& args = batch->args;
  args.dtype = shape_.dtype;
  args.num_heads = shape_.num_heads;
  args.num_kv_heads = shape_.num_kv_heads;
  args.head_dim = shape_.head_dim;
  args.block_size = shape_.block_size;
  args.sliding_window = shape_.window;
  args.scale = Scale(shape_);
  args.queries = batch->queries.data();
  args.query_stride = QueryStride();
  args.outputs = batch->outputs.data();
  args.kv = kv_.data();
  args.row_slots = batch->row_slots.data();
  args.row_positions = batch->row_positions.data();
  args.block_tables = tables_.data();
  args.table_stride = table_stride_;
  args.partials = batch->partials.data();
  args.arrivals = batch->arrivals.data();
  return batch;
}

std::vector<DecodeItem> Scene::MakeItems(const std::vector<Row>& rows, const DecodeWay& way) const {
  std::vector<DecodeItem> items;
  const int32_t size = static_cast<int32_t>(way.exact ? kAttentionSegment : kAttentionTile);
  int32_t next_part = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    DecodeItem item;
    item.row = static_cast<int32_t>(r);
    const int32_t segments = rows[r].position / size + 1 + way.extra_segments;
    if (!way.splits || segments == 1) {
      item.num_segments = segments;
      items.push_back(item);
      continue;
    }
    // One to three segments an item, in turns.
    item.first_part = next_part;
    const size_t first_item = items.size();
    for (; item.first_segment < segments; item.first_segment += item.num_segments) {
      item.part = way.exact ? item.first_segment : static_cast<int32_t>(items.size() - first_item);
      item.num_segments = std::min(1 + static_cast<int32_t>(items.size() % kSegmentsPerItem),
                                   segments - item.first_segment);
      items.push_back(item);
    }
    const int32_t num_items = static_cast<int32_t>(items.size() - first_item);
    for (size_t i = first_item; i < items.size(); ++i) {
      items[i].num_items = num_items;
      items[i].num_parts = way.exact ? segments : num_items;
    }
    next_part += items.back().num_parts;
  }
  return items;
}

std::vector<RowBits> Scene::Outputs(const Batch& batch, size_t num_rows) const {
  const std::vector<uint8_t> bytes = batch.outputs.Read();
  std::vector<RowBits> outputs(num_rows, RowBits(RowElements()));
  const size_t size = SizeOf(shape_.dtype);
  for (size_t r = 0; r < num_rows; ++r) {
    for (size_t i = 0; i < RowElements(); ++i) {
      std::memcpy(&outputs[r][i], &bytes[(r * RowElements() + i) * size], size);
    }
  }
  return outputs;
}

std::vector<RowBits> Scene::Decode(const std::vector<Row>& rows, const DecodeWay& way) const {
  const std::vector<DecodeItem> items = MakeItems(rows, way);
  const std::unique_ptr<Batch> batch = MakeBatch(rows, items.size());
  batch->SetItems(items);
  batch->args.exact = way.exact;
  uint32_t num_blocks = way.num_blocks;
  if (num_blocks == 0) {
    Expect(DecodeAttentionBlocks(batch->args, &num_blocks));
  }
  Expect(DecodeAttention(batch->args, batch->items.data(), batch->num_items.data(), num_blocks,
                         nullptr));
  for (const uint32_t arrivals : batch->arrivals.Read()) {
    if (arrivals != 0) ADD_FAILURE() << "arrivals are left";
  }
  return Outputs(*batch, rows.size());
}

std::vector<RowBits> Scene::Prefill(const std::vector<Row>& rows, std::mt19937* random) const {
  const int32_t most =
      static_cast<int32_t>(PrefillTilePositions(shape_.num_heads, shape_.num_kv_heads));
  std::vector<PrefillTile> tiles;
  int32_t size = 0;  // of the tile at hand
  for (size_t r = 0; r < rows.size(); ++r) {
    const bool follows = r > 0 && rows[r].sequence == rows[r - 1].sequence &&
                         rows[r].position == rows[r - 1].position + 1;
    if (!follows || tiles.back().num_rows >= size) {
      size = random == nullptr ? most : 1 + static_cast<int32_t>((*random)() % most);
      tiles.push_back({static_cast<int32_t>(r), 0});
    }
    ++tiles.back().num_rows;
  }
  const std::unique_ptr<Batch> batch = MakeBatch(rows, 0);
  const DeviceArray<PrefillTile> device_tiles(tiles);
  Expect(PrefillAttention(batch->args, device_tiles.data(), static_cast<uint32_t>(tiles.size()),
                          nullptr));
  return Outputs(*batch, rows.size());
}

std::vector<double> Scene::Reference(const Row& row) const {
  const int window = static_cast<int>(shape_.window);
  const int first = window > 0 ? std::max(0, row.position - window + 1) : 0;
  const uint32_t group = shape_.num_heads / shape_.num_kv_heads;
  const uint32_t head_dim = shape_.head_dim;
  std::vector<double> output(RowElements(), 0);
  for (uint32_t kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    // Keys and values are made once for the group.
    const size_t count = static_cast<size_t>(row.position + 1 - first);
    std::vector<float> keys(count * head_dim);
    std::vector<float> values(count * head_dim);
    for (size_t j = 0; j < count; ++j) {
      const int position = first + static_cast<int>(j);
      for (uint32_t i = 0; i < head_dim; ++i) {
        keys[j * head_dim + i] = Element(kKey, row.sequence, position, kv_head, i);
        values[j * head_dim + i] = Element(kValue, row.sequence, position, kv_head, i);
      }
    }
    for (uint32_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      std::vector<double> query(head_dim);
      for (uint32_t i = 0; i < head_dim; ++i) {
        query[i] = Element(kQuery, row.sequence, row.position, head, i);
      }
      std::vector<double> weights(count);
      double highest = -std::numeric_limits<double>::infinity();
      for (size_t j = 0; j < count; ++j) {
        double score = 0;
        for (uint32_t i = 0; i < head_dim; ++i) score += query[i] * keys[j * head_dim + i];
        weights[j] = score * Scale(shape_);
        highest = std::max(highest, weights[j]);
      }
      double sum = 0;
      for (double& weight : weights) sum += weight = std::exp(weight - highest);
      for (size_t j = 0; j < count; ++j) {
        for (uint32_t i = 0; i < head_dim; ++i) {
          output[head * head_dim + i] += weights[j] / sum * values[j * head_dim + i];
        }
      }
    }
  }
  return output;
}

std::vector<double> Scene::Values(const RowBits& bits) const {
  std::vector<double> values;
  for (const uint32_t b : bits) {
    float value;
    std::memcpy(&value, &b, sizeof(value));
    values.push_back(shape_.dtype == DType::kF32 ? value : FloatFromBf16(static_cast<uint16_t>(b)));
  }
  return values;
}

}  // namespace quire::cuda
