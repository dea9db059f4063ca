#include "worker/device/cuda/kernels/elementwise.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/batch/step_plan.h"
#include "tests/worker/device/cuda/cpu_reference.h"
#include "tests/worker/device/cuda/elementwise_time.h"
#include "tests/worker/device/cuda/gpu_test.h"

namespace quire::cuda {
namespace {

template <typename T>
class ElementwiseTest : public GpuTest {};
using Types = testing::Types<float, Bf16>;
TYPED_TEST_SUITE(ElementwiseTest, Types);

TYPED_TEST(ElementwiseTest, EmbedCopiesRowsAndClearsFaults) {
  using T = TypeParam;
  for (uint32_t hidden_size : {16u, 896u, 4096u, 16384u}) {
    const uint32_t vocabulary = 50;
    const std::vector<T> embedding = RandomValues<T>(size_t{vocabulary} * hidden_size, 1);
    // Given, sampled by the slot, padding, given, padding with a token.
    const std::vector<int32_t> tokens = {3, -1, -1, 49, 7};
    const std::vector<int32_t> slots = {1, 0, -1, 0, -1};
    const std::vector<int32_t> last_tokens = {17, 5};
    std::vector<T> expected(tokens.size() * hidden_size, As<T>(0.0f));
    for (const auto& [row, token] : {std::pair{0, 3}, {1, 17}, {3, 49}}) {
      std::copy_n(embedding.begin() + token * hidden_size, hidden_size,
                  expected.begin() + row * hidden_size);
    }

    const DeviceArray<T> device_embedding(embedding);
    const DeviceArray<int32_t> device_tokens(tokens), device_slots(slots), device_last(last_tokens);
    const DeviceArray<T> hidden((tokens.size() + 1) * hidden_size);
    const DeviceArray<uint8_t> faults(tokens.size() + 1);
    EmbedArgs args;
    args.dtype = kDType<T>;
    args.num_rows = tokens.size();
    args.hidden_size = hidden_size;
    args.embedding = device_embedding.data();
    args.row_tokens = device_tokens.data();
    args.row_slots = device_slots.data();
    args.last_tokens = device_last.data();
    args.hidden = hidden.data();
    args.faults = faults.data();
    Expect(Embed(args, nullptr));
    std::vector<T> untouched(hidden_size);
    std::memset(static_cast<void*>(untouched.data()), 0xff, hidden_size * sizeof(T));
    expected.insert(expected.end(), untouched.begin(), untouched.end());
    EXPECT_TRUE(SameBits(hidden.Read(), expected)) << hidden_size;
    EXPECT_EQ(faults.Read(), (std::vector<uint8_t>{0, 0, 0, 0, 0, 0xff}));
  }
}

// The inputs of AddNorm and what the CPU makes of them.
template <typename T>
struct NormCase {
  NormCase(uint32_t rows, uint32_t size, bool adds) : num_rows(rows), hidden_size(size) {
    hidden = RandomValues<T>(size_t{rows} * size, 1, 2.0f);
    if (adds) delta = RandomValues<T>(size_t{rows} * size, 2);
    weight = RandomValues<T>(size, 3);
    sum = hidden;
    normed = hidden;
    for (uint32_t r = 0; r < rows; ++r) {
      T* const row = sum.data() + size_t{r} * size;
      if (adds) CpuKernelsOf(T()).add(row, delta.data() + size_t{r} * size, size);
      CpuKernelsOf(T()).rms_norm(row, weight.data(), kEps, size, normed.data() + size_t{r} * size);
    }
  }

  static constexpr float kEps = 1e-5f;
  uint32_t num_rows;
  uint32_t hidden_size;
  std::vector<T> hidden, delta, weight;
  std::vector<T> sum, normed;  // expected
};

// The same on the device.
template <typename T>
struct DeviceNorm {
  explicit DeviceNorm(const NormCase<T>& c)
      : hidden(c.hidden),
        delta(c.delta),
        weight(c.weight),
        normed(c.normed.size()),
        faults(std::vector<uint8_t>(c.num_rows)) {
    args.dtype = kDType<T>;
    args.num_rows = c.num_rows;
    args.hidden_size = c.hidden_size;
    args.eps = NormCase<T>::kEps;
    args.hidden = hidden.data();
    args.delta = delta.data();
    args.weight = weight.data();
    args.normed = normed.data();
    args.faults = faults.data();
    args.stage = static_cast<uint8_t>(NumericFault::kMlp);
  }

  DeviceArray<T> hidden, delta, weight, normed;
  DeviceArray<uint8_t> faults;
  AddNormArgs args;
};

TYPED_TEST(ElementwiseTest, AddNormIsTheCpus) {
  using T = TypeParam;
  for (uint32_t size : {16u, 64u, 896u, 1536u, 2048u, 2064u, 3584u, 4096u, 5120u, 8192u, 16384u}) {
    for (bool adds : {false, true}) {
      const NormCase<T> c(5, size, adds);
      const DeviceNorm<T> device(c);
      Expect(AddNorm(device.args, nullptr));
      EXPECT_TRUE(SameBits(device.hidden.Read(), c.sum)) << size;
      Comparison<T> comparison;
      comparison.AddAll(device.normed.Read(), c.normed);
      comparison.Report("norm " + std::to_string(size) + (adds ? " with a delta" : ""));
      EXPECT_EQ(device.faults.Read(), std::vector<uint8_t>(c.num_rows));
    }
  }
}

TYPED_TEST(ElementwiseTest, ANormedRowAloneIsTheSame) {
  using T = TypeParam;
  for (uint32_t size : {64u, 896u, 4096u, 14336u}) {
    const NormCase<T> c(300, size, true);
    const DeviceNorm<T> together(c);
    Expect(AddNorm(together.args, nullptr));
    const DeviceNorm<T> alone(c);
    for (uint32_t r = c.num_rows; r-- > 0;) {
      AddNormArgs args = alone.args;
      args.num_rows = 1;
      args.hidden = alone.hidden.data() + size_t{r} * size;
      args.delta = alone.delta.data() + size_t{r} * size;
      args.normed = alone.normed.data() + size_t{r} * size;
      args.faults = alone.faults.data() + r;
      Expect(AddNorm(args, nullptr));
    }
    EXPECT_TRUE(SameBits(together.hidden.Read(), alone.hidden.Read()));
    EXPECT_TRUE(SameBits(together.normed.Read(), alone.normed.Read()));
  }
}

TYPED_TEST(ElementwiseTest, AddNormOfChosenRowsLeavesTheResidual) {
  using T = TypeParam;
  const uint32_t size = 4096;
  const NormCase<T> c(6, size, true);
  DeviceNorm<T> device(c);
  const std::vector<int32_t> rows = {5, -1, 0, 3, 0};
  const DeviceArray<int32_t> device_rows(rows);
  device.args.rows = device_rows.data();
  device.args.num_rows = rows.size();
  Expect(AddNorm(device.args, nullptr));
  EXPECT_TRUE(SameBits(device.hidden.Read(), c.hidden));
  const std::vector<T> normed = device.normed.Read();

  const DeviceNorm<T> whole(c);
  Expect(AddNorm(whole.args, nullptr));
  const std::vector<T> all = whole.normed.Read();
  std::vector<T> untouched(size);
  std::memset(static_cast<void*>(untouched.data()), 0xff, size * sizeof(T));
  for (size_t i = 0; i < rows.size(); ++i) {
    const T* const expected = rows[i] < 0 ? untouched.data() : all.data() + rows[i] * size;
    EXPECT_TRUE(SameBits(normed.data() + i * size, expected, size)) << i;
  }
}

TYPED_TEST(ElementwiseTest, NotesTheFirstFaultOfARow) {
  using T = TypeParam;
  const uint32_t size = 2048;
  NormCase<T> c(6, size, true);
  c.hidden[0 * size + 5] = As<T>(std::numeric_limits<float>::infinity());
  c.hidden[1 * size + size - 1] = As<T>(std::numeric_limits<float>::quiet_NaN());
  c.delta[2 * size] = As<T>(1e30f);  // its square overflows
  c.hidden[4 * size + 7] = As<T>(std::numeric_limits<float>::quiet_NaN());
  DeviceNorm<T> device(c);
  const uint8_t before = static_cast<uint8_t>(NumericFault::kEmbedding);
  const uint8_t stage = device.args.stage;
  device.faults.Write({0, 0, 0, 0, before, before});
  Expect(AddNorm(device.args, nullptr));
  EXPECT_EQ(device.faults.Read(), (std::vector<uint8_t>{stage, stage, stage, 0, before, before}));
  // The others' numbers are as they would be without them.
  const std::vector<T> normed = device.normed.Read();
  Comparison<T> comparison;
  for (uint32_t r : {3u, 5u}) {
    for (uint32_t i = 0; i < size; ++i)
      comparison.Add(normed[r * size + i], c.normed[r * size + i]);
  }
  comparison.Report("norm beside faults");
}

TYPED_TEST(ElementwiseTest, SiluMulIsTheCpus) {
  using T = TypeParam;
  for (uint32_t size : {8u, 64u, 1000u, 4864u, 14336u}) {
    for (uint32_t rows : {1u, 3u, 40u}) {
      std::vector<T> gate_up = RandomValues<T>(size_t{rows} * 2 * size, size + rows, 4.0f);
      const float extremes[] = {0.0f, -0.0f, 100.0f, -100.0f, 30.0f, -30.0f, -87.0f, 1e4f};
      for (uint32_t i = 0; i < 8; ++i) gate_up[i] = As<T>(extremes[i]);
      std::vector<T> expected(size_t{rows} * size);
      for (uint32_t r = 0; r < rows; ++r) {
        const T* const gate = gate_up.data() + size_t{r} * 2 * size;
        CpuKernelsOf(T()).silu_mul(gate, gate + size, size, expected.data() + size_t{r} * size);
      }
      const DeviceArray<T> device_in(gate_up);
      const DeviceArray<T> device_out((size_t{rows} + 1) * size);
      SiluMulArgs args;
      args.dtype = kDType<T>;
      args.num_rows = rows;
      args.size = size;
      args.gate_up = device_in.data();
      args.out = device_out.data();
      Expect(SiluMul(args, nullptr));
      std::vector<T> out = device_out.Read();
      std::vector<T> beyond(out.begin() + expected.size(), out.end());
      out.resize(expected.size());
      Comparison<T> comparison;
      comparison.AddAll(out, expected);
      const std::string name = "silu " + std::to_string(rows) + " x " + std::to_string(size);
      comparison.Report(name);
      const std::vector<uint8_t> untouched(beyond.size() * sizeof(T), 0xff);
      EXPECT_EQ(std::memcmp(beyond.data(), untouched.data(), untouched.size()), 0);

      const DeviceArray<T> alone(expected.size());
      for (uint32_t r = 0; r < rows; ++r) {
        SiluMulArgs one = args;
        one.num_rows = 1;
        one.gate_up = device_in.data() + size_t{r} * 2 * size;
        one.out = alone.data() + size_t{r} * size;
        Expect(SiluMul(one, nullptr));
      }
      EXPECT_TRUE(SameBits(alone.Read(), out)) << name;
    }
  }
}

// Kernels start before the ones before them have ended: in a graph of many, each still sees what
// the one before wrote.
TYPED_TEST(ElementwiseTest, AChainInAGraphIsTheChainOneByOne) {
  using T = TypeParam;
  for (uint32_t rows : {1u, 64u, 600u}) {
    const uint32_t size = 1024;
    const NormCase<T> c(rows, size, true);
    const auto run = [&](const DeviceNorm<T>& norm, const DeviceArray<T>& delta, bool in_graph) {
      AddNormArgs add = norm.args;
      add.delta = delta.data();
      // normed [rows, size] read as gate and up [rows, size / 2] fills half of the next delta.
      SiluMulArgs silu;
      silu.dtype = kDType<T>;
      silu.num_rows = rows;
      silu.size = size / 2;
      silu.gate_up = norm.normed.data();
      silu.out = delta.data();
      const Stream stream = Expect(Stream::Create());
      const auto chain = [&] {
        cudaError_t error = cudaSuccess;
        for (int i = 0; i < 200 && error == cudaSuccess; ++i) {
          error = AddNorm(add, stream.get());
          if (error == cudaSuccess) error = SiluMul(silu, stream.get());
          if (!in_graph) Expect(stream.Synchronize("a kernel"));
        }
        return error;
      };
      if (in_graph) {
        const Graph graph = Expect(Graph::Capture(stream.get(), "the chain", chain));
        Expect(graph.Launch(stream.get()));
        Expect(stream.Synchronize("the chain"));
      } else {
        Expect(chain());
      }
    };
    const DeviceNorm<T> one(c), other(c);
    const DeviceArray<T> one_delta(c.delta), other_delta(c.delta);
    run(one, one_delta, false);
    run(other, other_delta, true);
    EXPECT_TRUE(SameBits(one.hidden.Read(), other.hidden.Read())) << rows;
    EXPECT_TRUE(SameBits(one_delta.Read(), other_delta.Read())) << rows;
  }
}

// Rows whose columns came part by part are the rows; the last part may be shorter, and in fp32 of
// any width.
TYPED_TEST(ElementwiseTest, JoinPartsPutsColumnsSideBySide) {
  using T = TypeParam;
  struct Shape {
    uint32_t rows, width, part;
  };
  std::vector<Shape> shapes = {{1, 64, 32}, {5, 4096, 1024}, {33, 96, 96}, {300, 14336, 7168}};
  if (kDType<T> == DType::kF32) {
    shapes.insert(shapes.end(), {{3, 199, 112}, {64, 128256, 64128}, {7, 50257, 12576}});
  }
  for (const Shape& shape : shapes) {
    const std::vector<T> whole = RandomValues<T>(size_t{shape.rows} * shape.width, shape.width);
    const uint32_t ranks = (shape.width + shape.part - 1) / shape.part;
    std::vector<T> parts(size_t{ranks} * shape.rows * shape.part);
    for (uint32_t rank = 0; rank < ranks; ++rank) {
      const uint32_t first = rank * shape.part;
      const uint32_t columns = std::min(shape.part, shape.width - first);
      for (uint32_t row = 0; row < shape.rows; ++row) {
        std::copy_n(whole.begin() + size_t{row} * shape.width + first, columns,
                    parts.begin() + size_t{rank} * shape.rows * shape.part + size_t{row} * columns);
      }
    }
    const DeviceArray<T> device_parts(parts);
    const DeviceArray<T> out(whole.size() + 1);
    JoinPartsArgs args;
    args.dtype = kDType<T>;
    args.num_rows = shape.rows;
    args.width = shape.width;
    args.part = shape.part;
    args.parts = device_parts.data();
    args.out = out.data();
    Expect(JoinParts(args, nullptr));
    std::vector<T> expected = whole;
    std::memset(static_cast<void*>(&expected.emplace_back()), 0xff, sizeof(T));  // untouched
    EXPECT_TRUE(SameBits(out.Read(), expected)) << shape.rows << " x " << shape.width;
  }
}

TEST(ElementwiseArguments, UnservedOnesAreRefused) {
  AddNormArgs norm;
  norm.num_rows = 1;
  norm.hidden_size = 16400;
  EXPECT_EQ(AddNorm(norm, nullptr), cudaErrorInvalidValue);
  EmbedArgs embed;
  embed.num_rows = 1;
  embed.dtype = DType::kF16;
  EXPECT_EQ(Embed(embed, nullptr), cudaErrorInvalidValue);
  JoinPartsArgs join;
  join.num_rows = 1;
  join.width = 100;
  join.part = 50;
  EXPECT_EQ(JoinParts(join, nullptr), cudaErrorInvalidValue);
  // No rows: nothing is launched.
  EXPECT_EQ(SiluMul(SiluMulArgs(), nullptr), cudaSuccess);
}

}  // namespace
}  // namespace quire::cuda

// With --time a table of times follows the tests.
int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const int result = RUN_ALL_TESTS();
  if (argc > 1 && std::strcmp(argv[1], "--time") == 0) quire::cuda::PrintElementwiseTimes();
  return result;
}
