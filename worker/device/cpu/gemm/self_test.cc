#include "worker/device/cpu/gemm/self_test.h"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "scheduler/check.h"
#include "worker/device/cpu/gemm/bf16.h"
#include "worker/device/cpu/gemm/gemm.h"
#include "worker/device/cpu/gemm/hard_values.h"
#include "worker/device/cpu/gemm/packed_weights.h"
#include "worker/device/cpu/gemm/thread_pool.h"

namespace quire {
namespace {

struct Shape {
  int64_t rows;
  int64_t outputs;
  int64_t length;
};
constexpr Shape kShapes[] = {
    {5, 70, 131},    // two panels and a part of one; odd: the last pair is half empty
    {24, 32, 1100},  // more rows than a tile has, bf16 widened; accumulators that rest in memory
};

template <typename T>
struct Operands {
  Operands(GemmDtype dtype, const Shape& of) : shape(of), x(of.rows * of.length) {
    uint64_t index = 0;
    for (T& value : x) value = HardElement<T>(index++);
    std::vector<T> rows(shape.outputs * shape.length);
    for (T& value : rows) value = HardElement<T>(index++);
    absl::StatusOr<PackedWeights> packed =
        PackedWeights::Create(dtype, shape.outputs, shape.length);
    QUIRE_CHECK(packed.ok());  // some 300 KB at the most
    weights = *std::move(packed);
    weights.PackRows(0, shape.outputs, rows.data());
  }
  const Shape shape;
  std::vector<T> x;
  PackedWeights weights;
};

template <typename T>
std::vector<float> Multiply(ThreadPool& pool, Isa isa, const Operands<T>& operands) {
  std::vector<float> y(operands.shape.rows * operands.shape.outputs);
  pool.Run([&](ThreadContext& context) {
    Gemm(context, isa, operands.shape.rows, operands.x.data(), operands.weights, y.data());
  });
  return y;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    const bool both_nan = std::isnan(a[i]) && std::isnan(b[i]);
    if (!both_nan && std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) return false;
  }
  return true;
}

// Drops the paths whose products are not the portable one's.
template <typename T>
void KeepExact(ThreadPool& pool, GemmDtype dtype, const Shape& shape, std::vector<Isa>* isas) {
  const Operands<T> operands(dtype, shape);
  const std::vector<float> expected = Multiply(pool, Isa::kPortable, operands);
  std::erase_if(*isas, [&](Isa isa) {
    return isa != Isa::kPortable && !SameBits(Multiply(pool, isa, operands), expected);
  });
}

}  // namespace

std::vector<Isa> UsableIsas() {
  ThreadPool pool(1);
  std::vector<Isa> usable = SupportedIsas();
  for (const Shape& shape : kShapes) {
    KeepExact<Bf16>(pool, GemmDtype::kBf16, shape, &usable);
    KeepExact<float>(pool, GemmDtype::kFp32, shape, &usable);
  }
  return usable;
}

}  // namespace quire
