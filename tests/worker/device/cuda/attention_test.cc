#include "worker/device/cuda/kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/worker/device/cuda/attention_scene.h"
#include "tests/worker/device/cuda/attention_time.h"
#include "tests/worker/device/cuda/gpu_test.h"

namespace quire::cuda {
namespace {

using AttentionTest = GpuTest;

std::string Name(const Shape& shape) {
  return std::string(DTypeName(shape.dtype)) + "_heads" + std::to_string(shape.num_heads) + "of" +
         std::to_string(shape.num_kv_heads) + "_dim" + std::to_string(shape.head_dim) + "_block" +
         std::to_string(shape.block_size) + "_window" + std::to_string(shape.window);
}

// The last `count` positions of a sequence.
void AddLastRows(int sequence, int length, int count, std::vector<Row>& rows) {
  for (int position = std::max(0, length - count); position < length; ++position) {
    rows.push_back({sequence, position});
  }
}

void ExpectSameBits(const std::vector<Row>& rows, const std::vector<RowBits>& expected,
                    const std::vector<RowBits>& actual, const std::string& what) {
  ASSERT_EQ(expected.size(), actual.size());
  size_t differing = 0;
  std::string first;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (expected[r] == actual[r]) continue;
    const size_t column = static_cast<size_t>(
        std::mismatch(expected[r].begin(), expected[r].end(), actual[r].begin()).first -
        expected[r].begin());
    if (differing++ == 0) {
      first = "sequence " + std::to_string(rows[r].sequence) + ", position " +
              std::to_string(rows[r].position) + ", element " + std::to_string(column);
    }
  }
  EXPECT_EQ(differing, 0u) << what << ": of " << rows.size() << " rows; first: " << first;
}

// The error of each head of a row, as vectors, is a small part of the head's output.
void ExpectNear(const Scene& scene, const Shape& shape, const Row& row, const RowBits& bits) {
  const double limit = shape.dtype == DType::kF32 ? 1e-5 : 1e-2;
  const std::vector<double> expected = scene.Reference(row);
  const std::vector<double> actual = scene.Values(bits);
  for (uint32_t head = 0; head < shape.num_heads; ++head) {
    double error = 0;
    double size = 0;
    for (uint32_t i = head * shape.head_dim; i < (head + 1) * shape.head_dim; ++i) {
      error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
      size += expected[i] * expected[i];
    }
    EXPECT_TRUE(error <= limit * limit * size)  // false of NaN
        << "sequence " << row.sequence << ", position " << row.position << ", head " << head
        << ": relative error " << std::sqrt(error / size);
  }
}

// Every shape: right, and the same bits whichever way a row is computed.
class AttentionShapeTest : public AttentionTest, public testing::WithParamInterface<Shape> {};

TEST_P(AttentionShapeTest, RightAndTheSameBitsAllWays) {
  const Shape shape = GetParam();
  const std::vector<int> lengths = {1,   2,   15,  16,  17,  63,  64,  65,   127,  128,
                                    255, 256, 257, 300, 511, 513, 777, 1024, 1025, 1200};
  std::vector<Row> rows;
  for (size_t s = 0; s < lengths.size(); ++s) {
    const bool many =
        lengths[s] == 300 || (!IsSanitized() && (lengths[s] == 777 || lengths[s] == 1025));
    AddLastRows(static_cast<int>(s), lengths[s], many ? 70 : 3, rows);
  }
  const Scene scene(shape, lengths, 1);
  const std::vector<RowBits> outputs = scene.Decode(rows, {});
  for (size_t r = 0; r < rows.size(); ++r) {
    const bool last = rows[r].position + 1 == lengths[static_cast<size_t>(rows[r].sequence)];
    if (last || r % 11 == 0) ExpectNear(scene, shape, rows[r], outputs[r]);
  }

  std::mt19937 random(2);
  ExpectSameBits(rows, outputs, scene.Decode(rows, {.num_blocks = 3}), "decoded by few blocks");
  ExpectSameBits(rows, outputs, scene.Decode(rows, {.extra_segments = 2}), "decoded to a bound");
  ExpectSameBits(rows, outputs, scene.Decode(rows, {.splits = true}), "decoded in parts");
  ExpectSameBits(rows, outputs, scene.Decode(rows, {.splits = true, .extra_segments = 2}),
                 "decoded in parts to a bound");
  ExpectSameBits(rows, outputs, scene.Prefill(rows, nullptr), "prefilled");
  ExpectSameBits(rows, outputs, scene.Prefill(rows, &random), "prefilled in random tiles");
  const Scene moved(shape, lengths, 5);
  ExpectSameBits(rows, outputs, moved.Decode(rows, {.splits = true}), "decoded in other blocks");
  ExpectSameBits(rows, outputs, moved.Prefill(rows, nullptr), "prefilled in other blocks");

  // In random company and order, for rows that decode.
  std::vector<size_t> order(rows.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::shuffle(order.begin(), order.end(), random);
  order.resize(rows.size() / 3);
  std::vector<Row> some;
  std::vector<RowBits> their_outputs;
  for (const size_t r : order) {
    some.push_back(rows[r]);
    their_outputs.push_back(outputs[r]);
  }
  ExpectSameBits(some, their_outputs, scene.Decode(some, {}), "decoded in other company");
  ExpectSameBits(some, their_outputs, scene.Decode(some, {.splits = true, .num_blocks = 7}),
                 "decoded in parts in other company");
}

// What benchmarks compare exactness with, which is in bf16 alone, is right as well.
class InexactAttentionTest : public AttentionShapeTest {};

TEST_P(InexactAttentionTest, Right) {
  const Shape shape = GetParam();
  const std::vector<int> lengths = {1, 2, 63, 64, 65, 128, 129, 257, 777, 1200};
  std::vector<Row> rows;
  for (size_t s = 0; s < lengths.size(); ++s) {
    AddLastRows(static_cast<int>(s), lengths[s], 3, rows);
  }
  const Scene scene(shape, lengths, 1);
  const auto expect_right = [&](const std::vector<RowBits>& outputs, const std::string& what) {
    SCOPED_TRACE(what);
    for (size_t r = 0; r < rows.size(); ++r) ExpectNear(scene, shape, rows[r], outputs[r]);
  };
  expect_right(scene.Decode(rows, {.exact = false}), "decoded");
  expect_right(scene.Decode(rows, {.splits = true, .extra_segments = 2, .exact = false}),
               "decoded in parts to a bound");
  expect_right(scene.Decode(rows, {.splits = true, .num_blocks = 7, .exact = false}),
               "decoded in parts by few blocks");
}

// Fewer than all under a sanitizer, of every kernel.
bool IsTaken(const Shape& shape) {
  if (!IsSanitized()) return true;
  const uint32_t group = shape.num_heads / shape.num_kv_heads;
  return shape.block_size != 32 && shape.head_dim != 16 && shape.head_dim != 80 &&
         (group == 1 || group >= 7);
}

std::vector<Shape> ShapesInBf16() {
  std::vector<Shape> shapes;
  for (const uint32_t head_dim : {16, 64, 80, 128, 256}) {
    for (const uint32_t group : {1, 2, 4, 7, 8}) {
      for (const uint32_t block_size : {16, 32}) {
        for (const uint32_t window : {0, 100}) {
          shapes.push_back({DType::kBF16, 2 * group, 2, head_dim, block_size, window});
        }
      }
    }
  }
  // Groups beyond half a matrix, a matrix and a block; blocks of other sizes; windows at borders.
  shapes.push_back({DType::kBF16, 12, 1, 64, 16, 0});
  shapes.push_back({DType::kBF16, 16, 1, 256, 16, 0});
  shapes.push_back({DType::kBF16, 40, 2, 128, 16, 300});
  shapes.push_back({DType::kBF16, 71, 1, 64, 64, 0});
  shapes.push_back({DType::kBF16, 9, 3, 96, 128, 64});
  shapes.push_back({DType::kBF16, 8, 2, 128, 128, 256});
  shapes.push_back({DType::kBF16, 8, 2, 128, 16, 1});
  shapes.erase(std::remove_if(shapes.begin(), shapes.end(), std::not_fn(IsTaken)), shapes.end());
  return shapes;
}

std::vector<Shape> ShapesInFp32() {
  std::vector<Shape> shapes;
  for (const uint32_t head_dim : {16, 64, 80, 256}) {
    for (const uint32_t group : {1, 2, 7}) {
      shapes.push_back({DType::kF32, 2 * group, 2, head_dim, 16, 0});
      shapes.push_back({DType::kF32, 2 * group, 2, head_dim, 32, 100});
    }
  }
  shapes.erase(std::remove_if(shapes.begin(), shapes.end(), std::not_fn(IsTaken)), shapes.end());
  return shapes;
}

const auto kNameOf = [](const auto& info) { return Name(info.param); };
INSTANTIATE_TEST_SUITE_P(Bf16, AttentionShapeTest, testing::ValuesIn(ShapesInBf16()), kNameOf);
INSTANTIATE_TEST_SUITE_P(Fp32, AttentionShapeTest, testing::ValuesIn(ShapesInFp32()), kNameOf);
INSTANTIATE_TEST_SUITE_P(Bf16, InexactAttentionTest, testing::ValuesIn(ShapesInBf16()), kNameOf);

const Shape kPlain = {DType::kBF16, 8, 2, 128, 16, 0};

// A prompt computed in chunks, when nothing beyond a chunk is stored yet, and all at once: every
// row, and each the same as when it is decoded.
TEST_F(AttentionTest, ChunksOfAPromptGiveTheBitsOfTheWhole) {
  for (const Shape& shape :
       {kPlain, Shape{DType::kBF16, 14, 2, 64, 16, 0}, Shape{DType::kBF16, 8, 8, 64, 32, 70},
        Shape{DType::kF32, 4, 2, 32, 16, 0}}) {
    SCOPED_TRACE(Name(shape));
    const int length = 600;
    std::vector<Row> rows;
    AddLastRows(0, length, length, rows);
    const Scene whole(shape, {length}, 3);
    const std::vector<RowBits> outputs = whole.Prefill(rows, nullptr);
    ExpectSameBits(rows, outputs, whole.Decode(rows, {}), "decoded");
    ExpectSameBits(rows, outputs, whole.Decode(rows, {.splits = true}), "decoded in parts");

    std::mt19937 random(4);
    for (int start = 0; start < length;) {
      const int end = std::min(length, start + 1 + static_cast<int>(random() % 200));
      const Scene stored(shape, {end}, 5 + static_cast<uint32_t>(start));
      const std::vector<Row> chunk(rows.begin() + start, rows.begin() + end);
      ExpectSameBits(chunk, {outputs.begin() + start, outputs.begin() + end},
                     stored.Prefill(chunk, &random),
                     "chunk " + std::to_string(start) + ".." + std::to_string(end));
      start = end;
    }
  }
}

// One captured launch serves other rows, items and numbers of them.
TEST_F(AttentionTest, ReplaysWithOtherItems) {
  const std::vector<int> lengths = {1, 700, 64, 1100, 257, 300};
  std::vector<Row> rows;
  for (size_t s = 0; s < lengths.size(); ++s) AddLastRows(static_cast<int>(s), lengths[s], 1, rows);
  const Scene scene(kPlain, lengths, 6);
  const std::vector<RowBits> outputs = scene.Decode(rows, {});
  const std::vector<DecodeItem> split = scene.MakeItems(rows, {.splits = true});
  const std::vector<DecodeItem> whole = scene.MakeItems(rows, {});
  const std::unique_ptr<Batch> batch = scene.MakeBatch(rows, split.size());

  const Stream stream = Expect(Stream::Create());
  const Graph graph = Expect(Graph::Capture(stream.get(), "attention", [&] {
    return DecodeAttention(batch->args, batch->items.data(), batch->num_items.data(), 20,
                           stream.get());
  }));
  const auto run = [&](const std::vector<DecodeItem>& items) {
    Expect(cudaMemset(batch->outputs.data(), 0, batch->outputs.size()));
    batch->SetItems(items);
    Expect(cudaDeviceSynchronize());
    Expect(graph.Launch(stream.get()));
    return scene.Outputs(*batch, rows.size());
  };
  ExpectSameBits(rows, outputs, run(whole), "whole");
  ExpectSameBits(rows, outputs, run(split), "in parts");
  const std::vector<RowBits> none = run({});
  EXPECT_EQ(none, std::vector<RowBits>(rows.size(), RowBits(none[0].size(), 0)));
  // The first row alone, then all again.
  const std::vector<RowBits> one = run({whole[0]});
  EXPECT_EQ(one[0], outputs[0]);
  EXPECT_EQ(one[1], none[1]);
  ExpectSameBits(rows, outputs, run(split), "in parts again");
  for (const uint32_t arrivals : batch->arrivals.Read()) EXPECT_EQ(arrivals, 0u);
}

// Many parts of many rows at once, again and again: the last to arrive sees what all others wrote.
TEST_F(AttentionTest, PartsMeetManyTimes) {
  const std::vector<int> lengths(16, 1200);
  std::vector<Row> rows;
  for (size_t s = 0; s < lengths.size(); ++s) AddLastRows(static_cast<int>(s), lengths[s], 4, rows);
  const Scene scene(kPlain, lengths, 7);
  const std::vector<RowBits> outputs = scene.Decode(rows, {});
  const std::vector<DecodeItem> items = scene.MakeItems(rows, {.splits = true});
  const std::unique_ptr<Batch> batch = scene.MakeBatch(rows, items.size());
  batch->SetItems(items);
  uint32_t num_blocks = 0;
  Expect(DecodeAttentionBlocks(batch->args, &num_blocks));
  const int num_rounds = IsSanitized() ? 5 : 50;
  for (int round = 0; round < num_rounds; ++round) {
    Expect(cudaMemset(batch->outputs.data(), 0, batch->outputs.size()));
    Expect(DecodeAttention(batch->args, batch->items.data(), batch->num_items.data(), num_blocks,
                           nullptr));
    ExpectSameBits(rows, outputs, scene.Outputs(*batch, rows.size()), "in parts");
  }
}

TEST_F(AttentionTest, RefusesShapesThatItDoesNotKnow) {
  AttentionArgs args;
  args.num_heads = 8;
  args.num_kv_heads = 2;
  args.head_dim = 128;
  args.block_size = 16;
  uint32_t num_blocks = 0;
  EXPECT_EQ(DecodeAttentionBlocks(args, &num_blocks), cudaSuccess);
  EXPECT_GT(num_blocks, 0u);
  const auto refused = [&](auto change) {
    AttentionArgs bad = args;
    change(bad);
    EXPECT_EQ(DecodeAttention(bad, nullptr, nullptr, 1, nullptr), cudaErrorInvalidValue);
    EXPECT_EQ(PrefillAttention(bad, nullptr, 1, nullptr), cudaErrorInvalidValue);
    EXPECT_EQ(DecodeAttentionBlocks(bad, &num_blocks), cudaErrorInvalidValue);
  };
  refused([](AttentionArgs& a) { a.head_dim = 72; });
  refused([](AttentionArgs& a) { a.head_dim = 272; });
  refused([](AttentionArgs& a) { a.block_size = 8; });
  refused([](AttentionArgs& a) { a.block_size = 48; });
  refused([](AttentionArgs& a) { a.block_size = 512; });
  refused([](AttentionArgs& a) { a.num_heads = 7; });
  refused([](AttentionArgs& a) { a.num_kv_heads = 0; });
  refused([](AttentionArgs& a) { a.scale = 0; });
  refused([](AttentionArgs& a) { a.dtype = DType::kF16; });
  refused([](AttentionArgs& a) {
    a.dtype = DType::kF32;
    a.exact = false;
  });
}

TEST(PrefillTilePositionsTest, FillsATileWithRows) {
  EXPECT_EQ(PrefillTilePositions(8, 8), 64u);
  EXPECT_EQ(PrefillTilePositions(32, 8), 16u);
  EXPECT_EQ(PrefillTilePositions(14, 2), 9u);
  EXPECT_EQ(PrefillTilePositions(71, 1), 1u);
}

}  // namespace
}  // namespace quire::cuda

// With --time, prints times after the tests.
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const int result = RUN_ALL_TESTS();
  if (argc > 1 && std::strcmp(argv[1], "--time") == 0) quire::cuda::PrintAttentionTimes();
  return result;
}
