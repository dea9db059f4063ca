#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/worker/device/cuda/cpu_reference.h"
#include "tests/worker/device/cuda/gpu_test.h"
#include "worker/device/cuda/kernels/elementwise.h"
#include "worker/device/cuda/kernels/kv_layout.h"

namespace quire::cuda {
namespace {

template <typename T>
class RotateStoreTest : public GpuTest {};
using Types = testing::Types<float, Bf16>;
TYPED_TEST_SUITE(RotateStoreTest, Types);

// One call of RotateStore: random rows, and what the CPU makes of them.
template <typename T>
struct RotateCase {
  struct Shape {
    uint32_t num_heads, num_kv_heads, head_dim, block_size;
    bool q_norm, k_norm;
  };

  RotateCase(const Shape& s, uint32_t rows, uint32_t seed) : shape(s), num_rows(rows) {
    std::mt19937 bits(seed);
    const uint32_t half = s.head_dim / 2;
    const uint32_t heads = s.num_heads + 2 * s.num_kv_heads;
    layout = {s.num_kv_heads, s.block_size, s.head_dim};
    qkv = RandomValues<T>(size_t{rows} * heads * s.head_dim, seed + 1);
    if (s.q_norm) q_norm = RandomValues<T>(s.head_dim, seed + 2);
    if (s.k_norm) k_norm = RandomValues<T>(s.head_dim, seed + 3);
    for (uint32_t i = 0; i < kContext * half; ++i) {
      const float angle = (i / half) * std::pow(10000.0f, -2.0f * (i % half) / s.head_dim);
      cos.push_back(Value(As<T>(std::cos(angle))));
      sin.push_back(Value(As<T>(std::sin(angle))));
    }
    table_stride = kContext / s.block_size;
    for (uint32_t i = 0; i < kSlots * table_stride; ++i) block_tables.push_back(i);
    std::shuffle(block_tables.begin(), block_tables.end(), bits);
    // Every fifth row pads; no two rows share a place.
    std::vector<int32_t> places(kSlots * kContext);
    for (size_t i = 0; i < places.size(); ++i) places[i] = i;
    std::shuffle(places.begin(), places.end(), bits);
    for (uint32_t r = 0; r < rows; ++r) {
      row_slots.push_back(r % 5 == 4 ? -1 : places[r] / kContext);
      row_positions.push_back(r % 5 == 4 ? 0 : places[r] % kContext);
    }
    ComputeExpected();
  }

  void ComputeExpected() {
    const auto& cpu = CpuKernelsOf(T());
    const uint32_t dim = shape.head_dim;
    const uint32_t heads = shape.num_heads + 2 * shape.num_kv_heads;
    queries = qkv;
    kv.resize(block_tables.size() * layout.block_stride());
    std::memset(static_cast<void*>(kv.data()), 0xff, kv.size() * sizeof(T));
    scales.assign(qkv.size(), 0.0f);
    kv_scales.assign(kv.size(), 0.0f);
    for (uint32_t r = 0; r < num_rows; ++r) {
      if (row_slots[r] < 0) continue;
      const uint32_t position = row_positions[r];
      const uint32_t block =
          block_tables[row_slots[r] * table_stride + position / shape.block_size];
      for (uint32_t h = 0; h < heads; ++h) {
        std::vector<T> head(dim);
        std::copy_n(qkv.begin() + (size_t{r} * heads + h) * dim, dim, head.begin());
        const bool is_query = h < shape.num_heads;
        const bool is_value = h >= shape.num_heads + shape.num_kv_heads;
        std::vector<float> scale(dim, 1.0f);
        if (!is_value) {
          const std::vector<T>& norm = is_query ? q_norm : k_norm;
          if (!norm.empty()) cpu.rms_norm(head.data(), norm.data(), kEps, dim, head.data());
          for (uint32_t i = 0; i < dim; ++i) {
            scale[i] = std::abs(Value(head[i % (dim / 2)])) +
                       std::abs(Value(head[i % (dim / 2) + dim / 2]));
          }
          cpu.rope(head.data(), cos.data() + position * dim / 2, sin.data() + position * dim / 2,
                   dim / 2);
        }
        if (is_query) {
          const size_t at = (size_t{r} * heads + h) * dim;
          std::copy(head.begin(), head.end(), queries.begin() + at);
          std::copy(scale.begin(), scale.end(), scales.begin() + at);
        } else {
          const uint32_t kv_head = (h - shape.num_heads) % shape.num_kv_heads;
          const size_t at = layout.key(block, kv_head, position % shape.block_size) +
                            (is_value ? layout.value_offset() : 0);
          std::copy(head.begin(), head.end(), kv.begin() + at);
          std::copy(scale.begin(), scale.end(), kv_scales.begin() + at);
        }
      }
    }
  }

  static constexpr uint32_t kContext = 96;
  static constexpr uint32_t kSlots = 3;
  static constexpr float kEps = 1e-6f;
  Shape shape;
  uint32_t num_rows;
  uint32_t table_stride;
  KvLayout layout;
  std::vector<T> qkv, q_norm, k_norm;
  std::vector<float> cos, sin;
  std::vector<int32_t> row_slots, row_positions, block_tables;
  std::vector<T> queries, kv;            // expected
  std::vector<float> scales, kv_scales;  // magnitudes that went into each number
};

// The same on the device.
template <typename T>
struct DeviceRotate {
  explicit DeviceRotate(const RotateCase<T>& c)
      : qkv(c.qkv),
        q_norm(c.q_norm),
        k_norm(c.k_norm),
        kv(c.kv.size()),
        cos(c.cos),
        sin(c.sin),
        row_slots(c.row_slots),
        row_positions(c.row_positions),
        block_tables(c.block_tables) {
    args.dtype = kDType<T>;
    args.num_rows = c.num_rows;
    args.num_heads = c.shape.num_heads;
    args.num_kv_heads = c.shape.num_kv_heads;
    args.head_dim = c.shape.head_dim;
    args.block_size = c.shape.block_size;
    args.eps = RotateCase<T>::kEps;
    args.qkv = qkv.data();
    args.q_norm = q_norm.data();
    args.k_norm = k_norm.data();
    args.cos = cos.data();
    args.sin = sin.data();
    args.row_slots = row_slots.data();
    args.row_positions = row_positions.data();
    args.block_tables = block_tables.data();
    args.table_stride = c.table_stride;
    args.kv = kv.data();
  }

  DeviceArray<T> qkv, q_norm, k_norm, kv;
  DeviceArray<float> cos, sin;
  DeviceArray<int32_t> row_slots, row_positions, block_tables;
  RotateStoreArgs args;
};

TYPED_TEST(RotateStoreTest, RotateStoreIsTheCpus) {
  using T = TypeParam;
  using Shape = typename RotateCase<T>::Shape;
  for (uint32_t head_dim = 16; head_dim <= 256; head_dim += 16) {
    for (const Shape& shape :
         {Shape{4, 2, head_dim, 16, false, false}, Shape{7, 1, head_dim, 32, true, true},
          Shape{3, 3, head_dim, 16, true, false}, Shape{14, 2, head_dim, 48, false, true}}) {
      const RotateCase<T> c(shape, 23, head_dim);
      const DeviceRotate<T> device(c);
      Expect(RotateStore(device.args, nullptr));
      const std::vector<T> queries = device.qkv.Read();
      const std::vector<T> kv = device.kv.Read();
      Comparison<T> comparison;
      for (size_t i = 0; i < queries.size(); ++i) {
        comparison.AddScaled(queries[i], c.queries[i], c.scales[i]);
      }
      for (size_t i = 0; i < kv.size(); ++i) {
        // Where nothing was stored nothing was touched.
        if (c.kv_scales[i] == 0) {
          ASSERT_TRUE(SameBits(&kv[i], &c.kv[i], 1)) << i;
        } else {
          comparison.AddScaled(kv[i], c.kv[i], c.kv_scales[i]);
        }
      }
      const std::string name = "rotate " + std::to_string(head_dim) + ", " +
                               std::to_string(shape.num_heads) + "/" +
                               std::to_string(shape.num_kv_heads) + " heads" +
                               (shape.q_norm ? ", q norm" : "") + (shape.k_norm ? ", k norm" : "");
      if (shape.q_norm || shape.k_norm) {
        comparison.Report(name);
      } else {
        comparison.ReportEqual(name);
      }
    }
  }
}

TYPED_TEST(RotateStoreTest, ARotatedRowAloneIsTheSame) {
  using T = TypeParam;
  for (uint32_t head_dim : {64u, 80u, 128u, 256u}) {
    const RotateCase<T> c({14, 2, head_dim, 16, true, true}, 200, head_dim);
    const DeviceRotate<T> together(c);
    Expect(RotateStore(together.args, nullptr));
    const DeviceRotate<T> alone(c);
    for (uint32_t r = c.num_rows; r-- > 0;) {
      RotateStoreArgs args = alone.args;
      args.num_rows = 1;
      args.qkv = alone.qkv.data() + size_t{r} * 18 * head_dim;
      args.row_slots = alone.row_slots.data() + r;
      args.row_positions = alone.row_positions.data() + r;
      Expect(RotateStore(args, nullptr));
    }
    EXPECT_TRUE(SameBits(together.qkv.Read(), alone.qkv.Read())) << head_dim;
    EXPECT_TRUE(SameBits(together.kv.Read(), alone.kv.Read())) << head_dim;
  }
}

TEST(RotateStoreArguments, ALongerHeadIsRefused) {
  RotateStoreArgs rotate;
  rotate.num_rows = 1;
  rotate.head_dim = 272;
  EXPECT_EQ(RotateStore(rotate, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace quire::cuda
