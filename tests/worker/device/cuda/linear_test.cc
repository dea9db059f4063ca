// The matrix products of the CUDA executor: right, and bitwise the same whatever the number of
// rows.
#include "worker/device/cuda/gemm/linear.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/worker/device/cuda/gpu_test.h"
#include "worker/device/cuda/gemm/trial.h"

namespace quire::cuda {
namespace {

struct Case {
  const char* name;
  uint32_t n, k;
  bool bias;
  bool fp32_output;
};

const Case kCases[] = {
    {"8B qkv", 6144, 4096, false, false},   {"8B o", 4096, 4096, false, false},
    {"8B down", 4096, 14336, false, false}, {"1B gate_up", 16384, 2048, false, false},
    {"1B down", 2048, 8192, false, false},  {"0.5B qkv", 1152, 896, true, false},
    {"0.5B down", 896, 4864, false, false}, {"tiny qkv", 640, 384, false, false},
    {"tiny head", 8192, 384, false, true},  {"odd head", 50257, 768, false, true},
    {"narrow", 48, 80, true, false},        {"1B head", 128256, 2048, false, true},
};

std::vector<uint8_t> ToHost(const void* data, size_t bytes) {
  std::vector<uint8_t> host(bytes);
  EXPECT_EQ(cudaMemcpy(host.data(), data, bytes, cudaMemcpyDeviceToHost), cudaSuccess);
  return host;
}

float Bf16At(const std::vector<uint8_t>& data, size_t i) {
  uint16_t bits;
  std::memcpy(&bits, data.data() + i * 2, 2);
  return FloatFromBf16(bits);
}

class LinearTest : public GpuTest, public testing::WithParamInterface<Case> {};
class Fp32LinearTest : public GpuTest {};

TEST_P(LinearTest, GivesARowTheSameBitsWhateverTheNumberOfRows) {
  const Case& c = GetParam();
  Stream stream = *Stream::Create();
  auto library = MatrixLibrary::Create();
  ASSERT_TRUE(library.ok()) << library.status();
  const uint32_t max_rows = c.fp32_output ? 256 : IsSanitized() ? 1024 : 8192;
  const uint32_t padded = LinearShape::PaddedRows(max_rows);
  DeviceBuffer weights = *DeviceBuffer::Create(size_t{c.n} * c.k * 2, "weights");
  DeviceBuffer bias = *DeviceBuffer::Create(size_t{c.n} * 2, "bias");
  DeviceBuffer inputs = *DeviceBuffer::Create(size_t{padded} * c.k * 2, "inputs");
  const size_t element = c.fp32_output ? 4 : 2;
  DeviceBuffer outputs = *DeviceBuffer::Create(size_t{padded} * c.n * element, "outputs");
  ASSERT_EQ(FillNormalBf16(weights.data(), size_t{c.n} * c.k, 1, 0.02f, stream.get()), cudaSuccess);
  ASSERT_EQ(FillNormalBf16(bias.data(), c.n, 2, 0.5f, stream.get()), cudaSuccess);

  LinearShape::Spec spec;
  spec.n = c.n;
  spec.k = c.k;
  spec.has_bias = c.bias;
  spec.fp32_output = c.fp32_output;
  spec.max_rows = max_rows;
  LinearShape::Trial trial;
  trial.weights = {weights.data()};
  trial.bias = c.bias ? bias.data() : nullptr;
  trial.inputs = inputs.data();
  auto shape = LinearShape::Create(**library, spec, trial, stream.get());
  ASSERT_TRUE(shape.ok()) << shape.status();
  auto linear = Linear::Create(*shape, weights.data(), trial.bias, inputs.data(), {});
  ASSERT_TRUE(linear.ok()) << linear.status();
  std::printf("%s: %u of %u algorithms exact\n", c.name, (*shape)->num_exact(),
              (*shape)->num_tried());

  // Other inputs than those that the algorithms were tried with.
  ASSERT_EQ(FillActivationsBf16(inputs.data(), size_t{padded} * c.k, 99, stream.get()),
            cudaSuccess);
  const size_t row_bytes = c.n * element;
  const auto run = [&](uint32_t rows) {
    EXPECT_EQ(cudaMemsetAsync(outputs.data(), 0xFF, outputs.size(), stream.get()), cudaSuccess);
    EXPECT_EQ(linear->Run(rows, outputs.data(), stream.get()), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
    return ToHost(outputs.data(), rows * row_bytes);
  };
  const std::vector<uint8_t> all = run(max_rows);
  uint32_t differing = 0;
  for (const uint32_t rows :
       {1u,   2u,   7u,   8u,   9u,   15u,   16u,   17u,   32u,   33u,   63u,   64u,  65u,
        100u, 200u, 256u, 257u, 600u, 1024u, 1153u, 2000u, 3072u, 4097u, 6000u, 8191u}) {
    if (rows > max_rows) break;
    const std::vector<uint8_t> some = run(rows);
    if (std::memcmp(some.data(), all.data(), some.size()) != 0) {
      ++differing;
      ADD_FAILURE() << c.name << ": " << rows << " rows differ from " << max_rows;
    }
  }
  EXPECT_EQ(differing, 0u);

  // Against sums in double.
  const std::vector<uint8_t> w = ToHost(weights.data(), weights.size());
  const std::vector<uint8_t> x = ToHost(inputs.data(), inputs.size());
  const std::vector<uint8_t> b = ToHost(bias.data(), bias.size());
  double squares = 0;
  double errors = 0;
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i) {
    const uint32_t row = random() % max_rows;
    const uint32_t output = random() % c.n;
    double want = c.bias ? Bf16At(b, output) : 0.0;
    for (uint32_t k = 0; k < c.k; ++k) {
      want += double{Bf16At(x, size_t{row} * c.k + k)} * Bf16At(w, size_t{output} * c.k + k);
    }
    double got;
    if (c.fp32_output) {
      float value;
      std::memcpy(&value, all.data() + row * row_bytes + output * 4, 4);
      got = value;
    } else {
      got = Bf16At(all, size_t{row} * c.n + output);
    }
    squares += want * want;
    errors += (got - want) * (got - want);
  }
  EXPECT_LT(std::sqrt(errors / squares), c.fp32_output ? 1e-5 : 4e-3) << c.name;
}

// What benchmarks compare exactness with computes the same product, in some order or other. Split-K
// may round its parts to bf16 before they are summed.
TEST_P(LinearTest, IsCloseToTheChainWhereTheLibraryIsNotExact) {
  const Case& c = GetParam();
  const Stream stream = Expect(Stream::Create());
  const auto library = Expect(MatrixLibrary::Create(/*exact=*/false));
  const uint32_t max_rows = c.fp32_output ? 256 : 600;
  const uint32_t padded = LinearShape::PaddedRows(max_rows);
  const size_t element = c.fp32_output ? 4 : 2;
  const DeviceArray<uint16_t> weights(size_t{c.n} * c.k);
  const DeviceArray<uint16_t> bias(c.n);
  const DeviceArray<uint16_t> inputs(size_t{padded} * c.k);
  const DeviceArray<uint8_t> outputs(size_t{padded} * c.n * element);
  const DeviceArray<uint8_t> reference(size_t{padded} * c.n * element);
  Expect(FillNormalBf16(weights.data(), weights.size(), 1, 0.02f, stream.get()));
  Expect(FillNormalBf16(bias.data(), bias.size(), 2, 0.5f, stream.get()));

  LinearShape::Spec spec;
  spec.n = c.n;
  spec.k = c.k;
  spec.has_bias = c.bias;
  spec.fp32_output = c.fp32_output;
  spec.max_rows = max_rows;
  LinearShape::Trial trial;
  trial.weights = {weights.data()};
  trial.bias = c.bias ? bias.data() : nullptr;
  trial.inputs = inputs.data();
  const auto shape = Expect(LinearShape::Create(*library, spec, trial, stream.get()));
  const Linear linear =
      Expect(Linear::Create(shape, weights.data(), trial.bias, inputs.data(), {}));
  std::printf("%s: %u of the %u fastest algorithms exact; the library computes", c.name,
              shape->num_exact(), shape->num_tried());
  for (uint32_t rows = 1; rows <= kSkinnyMostRows; ++rows) {
    if (shape->IsForLibrary(rows)) std::printf(" %u", rows);
  }
  std::printf(" of up to %u rows\n", kSkinnyMostRows);

  Expect(FillNormalBf16(inputs.data(), inputs.size(), 99, 1.0f, stream.get()));
  // The chain, 16 rows at a time.
  for (uint32_t row = 0; row < max_rows; row += kSkinnyMaxRows) {
    SkinnyGemm gemm;
    Expect(MakeSkinnyGemm(weights.data(), inputs.data() + size_t{row} * c.k, kSkinnyMaxRows, c.n,
                          c.k, {}, &gemm));
    Expect(RunSkinnyGemm(gemm, std::min(kSkinnyMaxRows, max_rows - row), trial.bias,
                         reference.data() + size_t{row} * c.n * element, c.fp32_output,
                         stream.get()));
  }
  const std::vector<uint8_t> want = reference.Read();
  const auto value_at = [&](const std::vector<uint8_t>& data, size_t i) {
    if (!c.fp32_output) return Bf16At(data, i);
    float value;
    std::memcpy(&value, data.data() + 4 * i, 4);
    return value;
  };
  for (const uint32_t rows : {1u, 2u, 3u, 4u, 8u, 9u, 16u, 17u, 32u, 33u, 64u, 200u, 256u, 600u}) {
    if (rows > max_rows) break;
    Expect(cudaMemsetAsync(outputs.data(), 0xFF, outputs.size(), stream.get()));
    Expect(linear.Run(rows, outputs.data(), stream.get()));
    const std::vector<uint8_t> got = outputs.Read();
    double squares = 0;
    double errors = 0;
    for (size_t i = 0; i < size_t{rows} * c.n; ++i) {
      const double wanted = value_at(want, i);
      const double error = value_at(got, i) - wanted;
      squares += wanted * wanted;
      errors += error * error;
    }
    EXPECT_TRUE(std::sqrt(errors / squares) < (c.fp32_output ? 2e-5 : 1e-2))  // false of NaN
        << c.name << ", " << rows << " rows: " << std::sqrt(errors / squares);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, LinearTest, testing::ValuesIn(kCases),
                         [](const testing::TestParamInfo<Case>& info) {
                           std::string name = info.param.name;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

TEST_F(Fp32LinearTest, GivesARowTheSameBitsWhateverTheNumberOfRows) {
  Stream stream = *Stream::Create();
  auto library = MatrixLibrary::Create();
  ASSERT_TRUE(library.ok()) << library.status();
  constexpr uint32_t kN = 200, kK = 384, kRows = 150;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> w(kN * kK), x(kRows * kK), b(kN);
  for (float& value : w) value = normal(random);
  for (float& value : x) value = normal(random);
  for (float& value : b) value = normal(random);
  const auto upload = [](const std::vector<float>& values) {
    DeviceBuffer buffer = *DeviceBuffer::Create(values.size() * 4, "values");
    EXPECT_EQ(cudaMemcpy(buffer.data(), values.data(), buffer.size(), cudaMemcpyHostToDevice),
              cudaSuccess);
    return buffer;
  };
  DeviceBuffer weights = upload(w), inputs = upload(x), bias = upload(b);
  DeviceBuffer outputs = *DeviceBuffer::Create(kRows * kN * 4, "outputs");
  LinearShape::Spec spec;
  spec.dtype = DType::kF32;
  spec.n = kN;
  spec.k = kK;
  spec.has_bias = true;
  spec.max_rows = kRows;
  auto shape = LinearShape::Create(**library, spec, {}, stream.get());
  ASSERT_TRUE(shape.ok()) << shape.status();
  auto linear = Linear::Create(*shape, weights.data(), bias.data(), inputs.data(), {});
  ASSERT_TRUE(linear.ok()) << linear.status();
  const auto run = [&](uint32_t rows) {
    EXPECT_EQ(linear->Run(rows, outputs.data(), stream.get()), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
    return ToHost(outputs.data(), rows * kN * 4);
  };
  const std::vector<uint8_t> all = run(kRows);
  for (const uint32_t rows : {1u, 5u, 64u, 65u}) {
    const std::vector<uint8_t> some = run(rows);
    EXPECT_EQ(std::memcmp(some.data(), all.data(), some.size()), 0) << rows;
  }
  for (uint32_t row = 0; row < kRows; row += 7) {
    for (uint32_t output = 0; output < kN; ++output) {
      double want = b[output];
      for (uint32_t k = 0; k < kK; ++k) want += double{x[row * kK + k]} * w[output * kK + k];
      float got;
      std::memcpy(&got, all.data() + (row * kN + output) * 4, 4);
      ASSERT_NEAR(got, want, 1e-4);
    }
  }
}

}  // namespace
}  // namespace quire::cuda
