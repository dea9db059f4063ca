#include "tests/worker/device/cuda/attention_time.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "tests/worker/device/cuda/gpu_test.h"
#include "worker/device/cuda/kernels/attention.h"
#include "worker/device/cuda/kernels/kv_layout.h"

// The tests' main. `--time` measures the kernels after the tests: a graph of launches, one a layer
// as in a model's step, each with keys and values of its own so that the cache cannot hold them;
// median of 20 replays, for one launch.
namespace quire::cuda {
namespace {

constexpr int kReplays = 20;
constexpr size_t kRotatedBytes = size_t{1} << 29;
constexpr uint32_t kBlockSize = 16;

struct Model {
  const char* name;
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t head_dim;
};

// How rows are decoded.
struct DecodeWay {
  const char* name;
  bool splits;  // a row has as many items as fill the device once
  bool exact = true;
  int32_t least = 1;  // of an item: segments, or tiles where it is not exact
};

double MedianMicroseconds(const std::function<cudaError_t(uint32_t layer, cudaStream_t)>& launch,
                          uint32_t layers) {
  const Stream stream = Expect(Stream::Create());
  const Event begin = Expect(Event::CreateTimed());
  const Event end = Expect(Event::CreateTimed());
  const Graph graph = Expect(Graph::Capture(stream.get(), "a timing", [&] {
    cudaError_t error = cudaSuccess;
    for (uint32_t layer = 0; layer < layers && error == cudaSuccess; ++layer) {
      error = launch(layer, stream.get());
    }
    return error;
  }));
  std::vector<float> times;
  for (int i = 0; i < kReplays + 3; ++i) {
    float milliseconds = 0;
    Expect(cudaEventRecord(begin.get(), stream.get()));
    Expect(graph.Launch(stream.get()));
    Expect(cudaEventRecord(end.get(), stream.get()));
    Expect(stream.Synchronize("a timing"));
    Expect(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()));
    if (i >= 3) times.push_back(milliseconds);
  }
  std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
  return times[kReplays / 2] * 1000.0 / layers;
}

// Sequences of one context, their last rows, and keys and values of several layers.
class Bench {
 public:
  Bench(const Model& model, DType dtype, uint32_t sequences, uint32_t rows_each, uint32_t context)
      : num_rows_(sequences * rows_each),
        blocks_each_((context + kBlockSize - 1) / kBlockSize),
        layer_bytes_(KvLayout{model.num_kv_heads, kBlockSize, model.head_dim}.block_stride() *
                     blocks_each_ * sequences * SizeOf(dtype)),
        layers_(static_cast<uint32_t>(std::clamp<size_t>(kRotatedBytes / layer_bytes_, 2, 64))),
        kv_(layer_bytes_ * layers_),
        queries_(size_t{num_rows_} * Stride(model) * SizeOf(dtype)),
        outputs_(size_t{num_rows_} * model.num_heads * model.head_dim * SizeOf(dtype)),
        slots_(num_rows_),
        positions_(num_rows_),
        tables_(size_t{sequences} * blocks_each_) {
    Fill(dtype, kv_);
    Fill(dtype, queries_);
    std::vector<int32_t> slots;
    std::vector<int32_t> positions;
    for (uint32_t s = 0; s < sequences; ++s) {
      for (uint32_t r = context - rows_each; r < context; ++r) {
        slots.push_back(static_cast<int32_t>(s));
        positions.push_back(static_cast<int32_t>(r));
      }
    }
    std::vector<int32_t> blocks(tables_.size());
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<int32_t>(i);
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(1));
    slots_.Write(slots);
    positions_.Write(positions);
    tables_.Write(blocks);
    args_.dtype = dtype;
    args_.num_heads = model.num_heads;
    args_.num_kv_heads = model.num_kv_heads;
    args_.head_dim = model.head_dim;
    args_.block_size = kBlockSize;
    args_.scale = 1.0f / std::sqrt(static_cast<float>(model.head_dim));
    args_.queries = queries_.data();
    args_.query_stride = Stride(model);
    args_.outputs = outputs_.data();
    args_.row_slots = slots_.data();
    args_.row_positions = positions_.data();
    args_.block_tables = tables_.data();
    args_.table_stride = blocks_each_;
  }

  size_t layer_bytes() const { return layer_bytes_; }

  double Decode(uint32_t context, const DecodeWay& way) {
    const uint32_t size = way.exact ? kAttentionSegment : kAttentionTile;
    const int32_t segments = static_cast<int32_t>((context - 1) / size + 1);
    args_.exact = way.exact;
    uint32_t resident_blocks = 0;
    Expect(DecodeAttentionBlocks(args_, &resident_blocks));
    std::vector<DecodeItem> items;
    for (uint32_t row = 0; row < num_rows_; ++row) {
      DecodeItem item;
      item.row = static_cast<int32_t>(row);
      item.num_segments = segments;
      if (way.splits && segments > 1) {
        const int32_t wanted = std::max<int32_t>(
            1, static_cast<int32_t>(resident_blocks / (num_rows_ * args_.num_kv_heads)));
        const int32_t each = std::max(way.least, (segments - 1) / std::min(wanted, segments) + 1);
        item.num_items = (segments - 1) / each + 1;
        item.num_parts = way.exact ? segments : item.num_items;
        item.first_part = item.row * segments;
        for (; item.first_segment < segments; item.first_segment += each) {
          item.part = way.exact ? item.first_segment : item.first_segment / each;
          item.num_segments = std::min(each, segments - item.first_segment);
          items.push_back(item);
        }
        continue;
      }
      items.push_back(item);
    }
    const DeviceArray<DecodeItem> device_items(items);
    const DeviceArray<uint32_t> num_items(
        std::vector<uint32_t>{static_cast<uint32_t>(items.size())});
    const size_t num_parts = size_t{num_rows_} * static_cast<size_t>(segments);
    const DeviceArray<float> partials(num_parts * PartialFloats(args_.num_heads, args_.head_dim));
    const DeviceArray<uint32_t> arrivals(std::vector<uint32_t>(num_parts * args_.num_kv_heads, 0));
    args_.partials = partials.data();
    args_.arrivals = arrivals.data();
    const uint32_t num_blocks = std::min<uint32_t>(
        resident_blocks, static_cast<uint32_t>(items.size()) * args_.num_kv_heads);
    return MedianMicroseconds(
        [&](uint32_t layer, cudaStream_t stream) {
          return DecodeAttention(Layer(layer), device_items.data(), num_items.data(), num_blocks,
                                 stream);
        },
        layers_);
  }

  double Prefill(uint32_t rows_each) {
    const int32_t most =
        static_cast<int32_t>(PrefillTilePositions(args_.num_heads, args_.num_kv_heads));
    std::vector<PrefillTile> tiles;
    for (uint32_t s = 0; s < num_rows_ / rows_each; ++s) {
      const int32_t first = static_cast<int32_t>(s * rows_each);
      const int32_t end = first + static_cast<int32_t>(rows_each);
      for (int32_t row = first; row < end; row += most) {
        tiles.push_back({row, std::min(most, end - row)});
      }
    }
    const DeviceArray<PrefillTile> device_tiles(tiles);
    return MedianMicroseconds(
        [&](uint32_t layer, cudaStream_t stream) {
          return PrefillAttention(Layer(layer), device_tiles.data(),
                                  static_cast<uint32_t>(tiles.size()), stream);
        },
        layers_);
  }

 private:
  static uint32_t Stride(const Model& model) {
    return (model.num_heads + 2 * model.num_kv_heads) * model.head_dim;
  }

  AttentionArgs Layer(uint32_t layer) const {
    AttentionArgs args = args_;
    args.kv = kv_.data() + layer * layer_bytes_;
    return args;
  }

  // Random values of deviation one, the same few megabytes again and again.
  static void Fill(DType dtype, const DeviceArray<uint8_t>& to) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    std::vector<uint8_t> bytes(std::min<size_t>(to.size(), size_t{4} << 20));
    for (size_t i = 0; i + SizeOf(dtype) <= bytes.size(); i += SizeOf(dtype)) {
      const float value = normal(random);
      const uint16_t rounded = Bf16FromFloat(value);
      std::memcpy(&bytes[i], dtype == DType::kF32 ? static_cast<const void*>(&value) : &rounded,
                  SizeOf(dtype));
    }
    for (size_t at = 0; at < to.size(); at += bytes.size()) {
      Expect(cudaMemcpy(to.data() + at, bytes.data(), std::min(bytes.size(), to.size() - at),
                        cudaMemcpyHostToDevice));
    }
  }

  uint32_t num_rows_;
  uint32_t blocks_each_;
  size_t layer_bytes_;
  uint32_t layers_;
  DeviceArray<uint8_t> kv_;
  DeviceArray<uint8_t> queries_;
  DeviceArray<uint8_t> outputs_;
  DeviceArray<int32_t> slots_;
  DeviceArray<int32_t> positions_;
  DeviceArray<int32_t> tables_;
  AttentionArgs args_;
};

constexpr Model kLlama8B = {"Llama-3.1-8B", 32, 8, 128};
constexpr Model kLlama1B = {"Llama-3.2-1B", 32, 8, 64};
constexpr Model kQwen = {"Qwen2.5-0.5B", 14, 2, 64};

void PrintDecodeTime(const Model& model, DType dtype, uint32_t rows, uint32_t context) {
  Bench bench(model, dtype, rows, 1, context);
  for (const DecodeWay& way :
       {DecodeWay{"whole", false}, DecodeWay{"in parts", true},
        DecodeWay{"inexact, whole", false, false}, DecodeWay{"inexact, in parts", true, false},
        DecodeWay{"inexact, of 128", true, false, 2}}) {
    if (way.splits && context <= kAttentionSegment) continue;
    if (!way.exact && dtype != DType::kBF16) continue;
    const double time = bench.Decode(context, way);
    const double bytes = static_cast<double>(bench.layer_bytes());
    std::printf("%-13s %-8s decode  %5u rows of %5u %-17s %9.2f us %8.1f MB %6.2f TB/s\n",
                model.name, DTypeName(dtype).data(), rows, context, way.name, time, bytes * 1e-6,
                bytes / time * 1e-6);
    std::fflush(stdout);
  }
}

void PrintPrefillTime(const Model& model, DType dtype, uint32_t sequences, uint32_t rows_each,
                      uint32_t context) {
  Bench bench(model, dtype, sequences, rows_each, context);
  const double pairs = 0.5 * rows_each * (2.0 * context - rows_each + 1) * sequences;
  const double operations = 4.0 * model.num_heads * model.head_dim * pairs;
  const double time = bench.Prefill(rows_each);
  std::printf("%-13s %-8s prefill %2u x %5u rows to %5u %9.2f us %8.1f GFLOP %6.1f TFLOP/s\n",
              model.name, DTypeName(dtype).data(), sequences, rows_each, context, time,
              operations * 1e-9, operations / time * 1e-6);
  std::fflush(stdout);
}

}  // namespace

void PrintAttentionTimes() {
  for (const Model& model : {kLlama8B, kLlama1B, kQwen}) {
    for (const auto& [rows, context] : std::vector<std::pair<uint32_t, uint32_t>>{{1, 2},
                                                                                  {1, 258},
                                                                                  {1, 512},
                                                                                  {1, 8192},
                                                                                  {8, 1088},
                                                                                  {32, 192},
                                                                                  {256, 1536},
                                                                                  {1024, 192}}) {
      PrintDecodeTime(model, DType::kBF16, rows, context);
    }
    PrintPrefillTime(model, DType::kBF16, 1, 1024, 1024);
    PrintPrefillTime(model, DType::kBF16, 1, 512, 2048);
    PrintPrefillTime(model, DType::kBF16, 1, 8192, 8192);
    PrintPrefillTime(model, DType::kBF16, 16, 128, 128);
  }
  PrintDecodeTime(kQwen, DType::kF32, 256, 2048);
  PrintPrefillTime(kQwen, DType::kF32, 1, 256, 2048);
}

}  // namespace quire::cuda
