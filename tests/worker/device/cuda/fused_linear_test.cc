// Matrix products that do along with them what follows give the bits of the two kernels in turn.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "tests/worker/device/cuda/gpu_test.h"
#include "worker/device/cuda/gemm/skinny_gemm.h"
#include "worker/device/cuda/gemm/trial.h"
#include "worker/device/cuda/kernels/elementwise.h"

namespace quire::cuda {
namespace {

constexpr uint32_t kRows = kSkinnyMostRows;

class FusedLinearTest : public GpuTest {
 protected:
  DeviceArray<uint16_t> Normal(size_t count, uint64_t seed, float deviation) {
    DeviceArray<uint16_t> array(count);
    Expect(FillNormalBf16(array.data(), count, seed, deviation, nullptr));
    return array;
  }
};

TEST_F(FusedLinearTest, SiluMul) {
  for (const bool has_bias : {false, true}) {
    for (const uint32_t intermediate : {40u, 1024u, 8192u}) {
      constexpr uint32_t kK = 384;
      const uint32_t n = 2 * intermediate;
      const auto weights = Normal(size_t{n} * kK, 1, 0.05f);
      const auto inputs = Normal(kRows * kK, 2, 1.0f);
      const auto bias = Normal(n, 3, 0.5f);
      const void* b = has_bias ? bias.data() : nullptr;
      SkinnyGemm plain, paired;
      Expect(MakeSkinnyGemm(weights.data(), inputs.data(), kRows, n, kK, {}, &plain));
      Expect(
          MakeSkinnyGemm(weights.data(), inputs.data(), kRows, n, kK, {intermediate, 1}, &paired));
      for (const uint32_t m : {1u, 5u, 8u, 9u, 16u, 17u, 32u}) {
        if (m > paired.max_rows) break;
        DeviceArray<uint16_t> gate_up(size_t{m} * n), want(size_t{m} * intermediate),
            got(size_t{m} * intermediate);
        Expect(RunSkinnyGemm(plain, m, b, gate_up.data(), false, nullptr));
        SiluMulArgs args;
        args.num_rows = m;
        args.size = intermediate;
        args.gate_up = gate_up.data();
        args.out = want.data();
        Expect(SiluMul(args, nullptr));
        Expect(RunSkinnyGemmSiluMul(paired, m, b, got.data(), nullptr));
        EXPECT_EQ(got.Read(), want.Read()) << intermediate << " x " << m;
      }
    }
  }
}

TEST_F(FusedLinearTest, Add) {
  constexpr uint32_t kN = 200, kK = 1024;
  const auto weights = Normal(size_t{kN} * kK, 1, 0.05f);
  const auto inputs = Normal(kRows * kK, 2, 1.0f);
  const auto hidden = Normal(kRows * kN, 3, 1.0f);
  SkinnyGemm gemm;
  Expect(MakeSkinnyGemm(weights.data(), inputs.data(), kRows, kN, kK, {}, &gemm));
  for (const uint32_t m : {1u, 8u, 16u, 31u}) {
    DeviceArray<uint16_t> delta(m * kN);
    Expect(RunSkinnyGemm(gemm, m, nullptr, delta.data(), false, nullptr));
    std::vector<uint16_t> want = hidden.Read();
    const std::vector<uint16_t> add = delta.Read();
    for (size_t i = 0; i < add.size(); ++i) {
      want[i] = Bf16FromFloat(FloatFromBf16(want[i]) + FloatFromBf16(add[i]));
    }
    DeviceArray<uint16_t> got(hidden.Read());
    Expect(RunSkinnyGemmAdd(gemm, m, nullptr, got.data(), nullptr));
    EXPECT_EQ(got.Read(), want) << m;
  }
}

TEST_F(FusedLinearTest, RotateStore) {
  struct Shape {
    uint32_t heads, kv_heads, head_dim;
  };
  for (const Shape& shape : {Shape{32, 8, 128}, Shape{14, 2, 64}, Shape{3, 1, 48}}) {
    constexpr uint32_t kK = 384, kBlocks = 8, kBlockSize = 16, kContext = 64;
    const uint32_t n = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    const uint32_t half = shape.head_dim / 2;
    const auto weights = Normal(size_t{n} * kK, 1, 0.05f);
    const auto inputs = Normal(kRows * kK, 2, 1.0f);
    const auto bias = Normal(n, 3, 0.5f);
    std::vector<float> cos(kContext * half), sin(kContext * half);
    for (size_t i = 0; i < cos.size(); ++i) {
      cos[i] = FloatFromBf16(Bf16FromFloat(static_cast<float>(i % 97) / 97.0f));
      sin[i] = FloatFromBf16(Bf16FromFloat(static_cast<float>(i % 89) / 89.0f - 0.5f));
    }
    const DeviceArray<float> cosines(cos), sines(sin);
    // Slot s holds blocks 2 s and 2 s + 1; the last row is a padding row.
    const DeviceArray<int32_t> tables({1, 0, 3, 2, 5, 4, 7, 6});
    SkinnyGemm plain, paired;
    Expect(MakeSkinnyGemm(weights.data(), inputs.data(), kRows, n, kK, {}, &plain));
    Expect(MakeSkinnyGemm(weights.data(), inputs.data(), kRows, n, kK,
                          {half, shape.heads + 2 * shape.kv_heads}, &paired));
    for (const uint32_t m : {1u, 4u, 11u, 29u}) {
      if (m > paired.max_rows) break;
      std::vector<int32_t> slots(m), positions(m);
      for (uint32_t row = 0; row < m; ++row) {
        slots[row] = row == 10 ? -1 : static_cast<int32_t>(row % 4);
        positions[row] = static_cast<int32_t>((7 * row + 3) % 32);
      }
      const DeviceArray<int32_t> row_slots(slots), row_positions(positions);
      const size_t kv_size = size_t{2} * shape.kv_heads * kBlocks * kBlockSize * shape.head_dim;
      DeviceArray<uint16_t> want_qkv(size_t{m} * n), got_qkv(size_t{m} * n), want_kv(kv_size),
          got_kv(kv_size);
      RotateStoreArgs args;
      args.num_rows = m;
      args.num_heads = shape.heads;
      args.num_kv_heads = shape.kv_heads;
      args.head_dim = shape.head_dim;
      args.block_size = kBlockSize;
      args.cos = cosines.data();
      args.sin = sines.data();
      args.row_slots = row_slots.data();
      args.row_positions = row_positions.data();
      args.block_tables = tables.data();
      args.table_stride = 2;
      args.qkv = want_qkv.data();
      args.kv = want_kv.data();
      Expect(RunSkinnyGemm(plain, m, bias.data(), want_qkv.data(), false, nullptr));
      Expect(RotateStore(args, nullptr));
      args.qkv = got_qkv.data();
      args.kv = got_kv.data();
      Expect(RunSkinnyGemmRotateStore(paired, bias.data(), args, nullptr));
      EXPECT_EQ(got_kv.Read(), want_kv.Read()) << shape.heads << " heads, " << m << " rows";
      const std::vector<uint16_t> want = want_qkv.Read();
      const std::vector<uint16_t> got = got_qkv.Read();
      for (uint32_t row = 0; row < m; ++row) {
        if (slots[row] < 0) continue;
        const size_t at = size_t{row} * n;
        EXPECT_EQ(std::memcmp(&want[at], &got[at], shape.heads * shape.head_dim * 2), 0)
            << shape.heads << " heads, row " << row << " of " << m;
      }
    }
  }
}

}  // namespace
}  // namespace quire::cuda
