#include "worker/device/cpu/gemm/gemm.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include "gtest/gtest.h"

namespace quire {
namespace {

using Random = std::mt19937;

enum class Values {
  kOrdinary,  // what a model computes with
  kHard,      // and denormals, tiny and huge exponents
  kNotFinite  // and now and then an infinity or a NaN
};

float RandomFloat(Random& random, Values values) {
  std::normal_distribution<float> normal;
  const uint32_t choice = random() % 256;
  if (values == Values::kNotFinite && choice == 0) return INFINITY;
  if (values == Values::kNotFinite && choice == 1) return -INFINITY;
  if (values == Values::kNotFinite && choice == 2) return NAN;
  if (values != Values::kOrdinary && choice >= 128) {
    const uint32_t bits = random();
    const uint32_t exponent = choice < 144 ? 0 : choice < 160 ? 50 + bits % 20 : 100 + bits % 60;
    return std::bit_cast<float>((bits & 0x807FFFFFu) | exponent << 23);
  }
  return normal(random);
}

template <typename T>
std::vector<T> RandomVector(Random& random, size_t size, Values values = Values::kOrdinary) {
  std::vector<T> result(size);
  for (T& value : result) {
    if constexpr (std::is_same_v<T, Bf16>) {
      value = ToBf16(RandomFloat(random, values));
    } else {
      value = RandomFloat(random, values);
    }
  }
  return result;
}

float Widen(float value) { return value; }
float Widen(Bf16 value) { return ToFloat(value); }

template <typename Y>
Y Round(float value) {
  if constexpr (std::is_same_v<Y, Bf16>) {
    return ToBf16(value);
  } else {
    return value;
  }
}

// Equal bits, or both NaN.
template <typename T>
bool Same(T a, T b) {
  if (std::isnan(Widen(a)) || std::isnan(Widen(b))) {
    return std::isnan(Widen(a)) && std::isnan(Widen(b));
  }
  if constexpr (std::is_same_v<T, Bf16>) {
    return a == b;
  } else {
    return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
  }
}

template <typename T>
void ExpectSame(const std::vector<T>& actual, const std::vector<T>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_TRUE(Same(actual[i], expected[i]))
        << "element " << i << ": " << Widen(actual[i]) << " is not " << Widen(expected[i]);
  }
}

template <typename X>
PackedWeights Pack(int64_t n, int64_t k, const std::vector<X>& rows) {
  absl::StatusOr<PackedWeights> weights =
      PackedWeights::Create(std::is_same_v<X, Bf16> ? GemmDtype::kBf16 : GemmDtype::kFp32, n, k);
  EXPECT_TRUE(weights.ok()) << weights.status();
  weights->PackRows(0, n, rows.data());
  return *std::move(weights);
}

// The recipe of gemm.h, word for word. Called inside a region, for its floating-point mode.
template <typename X, typename Y>
std::vector<Y> Expected(int64_t m, const std::vector<X>& x, int64_t n, int64_t k,
                        const std::vector<X>& rows, const float* bias) {
  std::vector<Y> y(m * n);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      float acc = 0.0f;
      const X* a = x.data() + i * k;
      const X* b = rows.data() + j * k;
      if constexpr (std::is_same_v<X, Bf16>) {
        for (int64_t c = 0; c < k; c += 2) {
          const bool pair = c + 1 < k;
          acc = std::fma(pair ? Widen(a[c + 1]) : 0.0f, pair ? Widen(b[c + 1]) : 0.0f, acc);
          acc = std::fma(Widen(a[c]), Widen(b[c]), acc);
        }
      } else {
        for (int64_t c = 0; c < k; ++c) acc = std::fma(a[c], b[c], acc);
      }
      y[i * n + j] = Round<Y>(bias == nullptr ? acc : acc + bias[j]);
    }
  }
  return y;
}

template <typename X, typename Y>
std::vector<Y> Multiply(ThreadPool& pool, Isa isa, int64_t m, const std::vector<X>& x,
                        const PackedWeights& weights, const GemmOptions& options = {}) {
  std::vector<Y> y(m * weights.n());
  pool.Run(
      [&](ThreadContext& context) { Gemm(context, isa, m, x.data(), weights, y.data(), options); });
  return y;
}

template <typename X, typename Y>
void ExpectMatchesTheRecipe(Random& random, Isa isa, Values values) {
  ThreadPool pool(1);
  for (int round = 0; round < 60; ++round) {
    const int64_t m = 1 + random() % 40;
    const int64_t n = 1 + random() % 150;
    const int64_t k = 1 + random() % 90;
    SCOPED_TRACE(testing::Message() << "m " << m << " n " << n << " k " << k);
    const std::vector<X> x = RandomVector<X>(random, m * k, values);
    const std::vector<X> rows = RandomVector<X>(random, n * k, values);
    const std::vector<float> bias = RandomVector<float>(random, n);
    GemmOptions options;
    if (round % 2 == 1) options.bias = bias.data();
    std::vector<Y> expected;
    pool.Run([&](ThreadContext&) { expected = Expected<X, Y>(m, x, n, k, rows, options.bias); });
    ExpectSame(Multiply<X, Y>(pool, isa, m, x, Pack(n, k, rows), options), expected);
  }
}

// Every row equals the same row computed alone, by one thread, on the portable path.
template <typename X, typename Y>
void ExpectRowsAreIndependent(Random& random, Isa isa, int64_t n, int64_t k,
                              const std::vector<int64_t>& batch_sizes) {
  ThreadPool one(1);
  std::vector<std::unique_ptr<ThreadPool>> pools;
  for (int i = 1; i <= 4; ++i) pools.push_back(std::make_unique<ThreadPool>(i));
  constexpr int64_t kNumRows = 24;
  const std::vector<X> rows = RandomVector<X>(random, kNumRows * k);
  const PackedWeights weights = Pack(n, k, RandomVector<X>(random, n * k));
  std::vector<std::vector<Y>> alone(kNumRows);
  for (int64_t i = 0; i < kNumRows; ++i) {
    const std::vector<X> row(rows.begin() + i * k, rows.begin() + (i + 1) * k);
    alone[i] = Multiply<X, Y>(one, Isa::kPortable, 1, row, weights);
  }
  for (int64_t m : batch_sizes) {
    std::vector<X> x;
    std::vector<Y> expected;
    for (int64_t i = 0; i < m; ++i) {
      const int64_t row = random() % kNumRows;
      x.insert(x.end(), rows.begin() + row * k, rows.begin() + (row + 1) * k);
      expected.insert(expected.end(), alone[row].begin(), alone[row].end());
    }
    for (const std::unique_ptr<ThreadPool>& pool : pools) {
      SCOPED_TRACE(testing::Message() << "m " << m << " threads " << pool->num_threads());
      ExpectSame(Multiply<X, Y>(*pool, isa, m, x, weights), expected);
    }
  }
}

class GemmTest : public testing::TestWithParam<Isa> {
 protected:
  Random random_{20261124};
};

TEST_P(GemmTest, MatchesTheRecipe) {
  for (Values values : {Values::kOrdinary, Values::kHard, Values::kNotFinite}) {
    SCOPED_TRACE(testing::Message() << "values " << static_cast<int>(values));
    ExpectMatchesTheRecipe<Bf16, Bf16>(random_, GetParam(), values);
    ExpectMatchesTheRecipe<Bf16, float>(random_, GetParam(), values);
    ExpectMatchesTheRecipe<float, float>(random_, GetParam(), values);
  }
}

TEST_P(GemmTest, RowsDoNotDependOnTheBatchOrTheThreads) {
  std::vector<int64_t> batch_sizes(40);
  for (int64_t m = 1; m <= 40; ++m) batch_sizes[m - 1] = m;
  ExpectRowsAreIndependent<Bf16, Bf16>(random_, GetParam(), 300, 65, batch_sizes);
  ExpectRowsAreIndependent<Bf16, float>(random_, GetParam(), 130, 48, batch_sizes);
  ExpectRowsAreIndependent<float, float>(random_, GetParam(), 300, 65, batch_sizes);
}

// Several cache blocks of rows and of K, whose accumulators rest in memory between.
TEST_P(GemmTest, RowsDoNotDependOnCacheBlocks) {
  ExpectRowsAreIndependent<Bf16, float>(random_, GetParam(), 45, 2501, {1, 15, 400});
  ExpectRowsAreIndependent<float, float>(random_, GetParam(), 45, 1300, {1, 15, 400});
}

// What lies between and behind the rows is neither read (NaN would spread) nor written.
TEST_P(GemmTest, KeepsToItsRows) {
  ThreadPool pool(2);
  constexpr int64_t kN = 45;
  constexpr int64_t kK = 33;
  constexpr int64_t kXStride = 40;
  constexpr int64_t kYStride = 50;
  for (int64_t m : {1, 3, 20, 40}) {
    const std::vector<Bf16> dense = RandomVector<Bf16>(random_, m * kK);
    std::vector<Bf16> x(m * kXStride, ToBf16(NAN));
    for (int64_t i = 0; i < m; ++i) {
      std::copy_n(dense.begin() + i * kK, kK, x.begin() + i * kXStride);
    }
    const PackedWeights weights = Pack(kN, kK, RandomVector<Bf16>(random_, kN * kK));
    const std::vector<Bf16> expected = Multiply<Bf16, Bf16>(pool, GetParam(), m, dense, weights);
    const Bf16 untouched{0x1234};
    std::vector<Bf16> y(m * kYStride, untouched);
    GemmOptions options;
    options.x_stride = kXStride;
    options.y_stride = kYStride;
    pool.Run([&](ThreadContext& context) {
      Gemm(context, GetParam(), m, x.data(), weights, y.data(), options);
    });
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < kYStride; ++j) {
        ASSERT_EQ(y[i * kYStride + j], j < kN ? expected[i * kN + j] : untouched) << i << " " << j;
      }
    }
  }
}

TEST_P(GemmTest, NoRowsIsNothingToDo) {
  ThreadPool pool(2);
  const PackedWeights weights = Pack(40, 8, RandomVector<float>(random_, 40 * 8));
  EXPECT_TRUE((Multiply<float, float>(pool, GetParam(), 0, {}, weights).empty()));
}

// Products that follow each other in one region, with and without a barrier.
TEST_P(GemmTest, ChainsInOneRegion) {
  ThreadPool pool(3);
  ThreadPool one(1);
  constexpr int64_t kM = 5;
  constexpr int64_t kWidth = 70;
  const std::vector<Bf16> x = RandomVector<Bf16>(random_, kM * kWidth);
  const PackedWeights first = Pack(kWidth, kWidth, RandomVector<Bf16>(random_, kWidth * kWidth));
  const PackedWeights second = Pack(kWidth, kWidth, RandomVector<Bf16>(random_, kWidth * kWidth));
  const std::vector<Bf16> y1 = Multiply<Bf16, Bf16>(one, GetParam(), kM, x, first);
  const std::vector<Bf16> y2 = Multiply<Bf16, Bf16>(one, GetParam(), kM, x, second);
  const std::vector<Bf16> y3 = Multiply<Bf16, Bf16>(one, GetParam(), kM, y1, second);
  for (int round = 0; round < 50; ++round) {
    std::vector<Bf16> z1(kM * kWidth), z2(kM * kWidth), z3(kM * kWidth);
    pool.Run([&](ThreadContext& context) {
      Gemm(context, GetParam(), kM, x.data(), first, z1.data());
      Gemm(context, GetParam(), kM, x.data(), second, z2.data());
      context.Barrier();
      Gemm(context, GetParam(), kM, z1.data(), second, z3.data());
    });
    ASSERT_EQ(z1, y1);
    ASSERT_EQ(z2, y2);
    ASSERT_EQ(z3, y3);
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, GemmTest, testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return std::string(IsaName(info.param)); });

}  // namespace
}  // namespace quire
