#include "worker/device/cpu/kernels/self_test.h"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "worker/device/cpu/gemm/hard_values.h"
#include "worker/device/cpu/gemm/self_test.h"
#include "worker/device/cpu/gemm/thread_pool.h"

namespace quire {
namespace {

float Widen(float value) { return value; }
float Widen(Bf16 value) { return ToFloat(value); }
template <typename T>
T Narrow(float value);
template <>
float Narrow<float>(float value) {
  return value;
}
template <>
Bf16 Narrow<Bf16>(float value) {
  return ToBf16(value);
}

// Hard values without those that make a NaN of every sum they enter.
template <typename T>
std::vector<T> Operands(size_t size, uint64_t seed) {
  std::vector<T> values(size);
  for (size_t i = 0; i < size; ++i) {
    const float value = HardValue(seed * 1'000'000 + i);
    values[i] = Narrow<T>(std::abs(value) < 1e4f ? value : 1.0f);
  }
  return values;
}

bool SameBits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}
template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!SameBits(Widen(a[i]), Widen(b[i]))) return false;
  }
  return true;
}

// What a table made of the fixed operands: a stream of numbers.
struct Trace {
  std::vector<float> numbers;
  void Add(float number) { numbers.push_back(number); }
  template <typename T>
  void Add(const std::vector<T>& values, size_t size) {
    for (size_t i = 0; i < size; ++i) Add(Widen(values[i]));
  }
};

template <typename T>
void RunElementwise(const TypedKernels<T>& kernels, Trace* trace) {
  constexpr int kSize = 203;  // vectors of 16, four of them and fewer, and a rest
  constexpr int kHalf = 24;   // of a head
  const std::vector<T> x = Operands<T>(kSize, 1);
  const std::vector<T> y = Operands<T>(kSize, 2);
  std::vector<T> out(kSize);
  trace->Add(kernels.rms_norm(x.data(), y.data(), 1e-5f, kSize, out.data()));
  trace->Add(out, kSize);
  out = x;
  kernels.add(out.data(), y.data(), kSize);
  trace->Add(out, kSize);
  kernels.silu_mul(x.data(), y.data(), kSize, out.data());
  trace->Add(out, kSize);
  std::vector<float> cosines(kHalf);
  std::vector<float> sines(kHalf);
  for (int i = 0; i < kHalf; ++i) {
    cosines[i] = Widen(Narrow<T>(std::cos(0.1f * static_cast<float>(i))));
    sines[i] = Widen(Narrow<T>(std::sin(0.1f * static_cast<float>(i))));
  }
  out = x;
  kernels.rope(out.data(), cosines.data(), sines.data(), kHalf);
  trace->Add(out, kSize);
}

// Seven rows (a group of four and one of three) over three segments of keys; the last row begins in
// the second.
template <typename T>
void RunAttention(const TypedKernels<T>& kernels, uint32_t block_size, Trace* trace) {
  constexpr int kRows = 7;
  constexpr int kHeadDim = 48;
  constexpr uint32_t kKeys = 2 * kAttentionSegment + 21;
  const uint32_t num_blocks = (kKeys + block_size - 1) / block_size;
  const size_t stride = size_t{block_size} * kHeadDim;
  const std::vector<T> positions = Operands<T>(size_t{kKeys} * kHeadDim, 3);
  const std::vector<T> values = Operands<T>(num_blocks * stride, 4);
  const std::vector<T> queries = Operands<T>(kRows * kHeadDim, 5);
  std::vector<T> keys(num_blocks * stride);
  std::vector<uint32_t> blocks(num_blocks);
  for (uint32_t i = 0; i < num_blocks; ++i) blocks[i] = num_blocks - 1 - i;
  for (uint32_t position = 0; position < kKeys; ++position) {
    kernels.store_key(positions.data() + size_t{position} * kHeadDim, kHeadDim, block_size,
                      position % block_size, keys.data() + blocks[position / block_size] * stride);
  }
  std::vector<T> outputs(kRows * kHeadDim);
  AttentionTile<T> tile;
  tile.num_rows = kRows;
  tile.head_dim = kHeadDim;
  tile.scale = 0.14433756f;  // 1 / sqrt(48)
  for (int row = 0; row < kRows; ++row) {
    tile.queries[row] = queries.data() + row * kHeadDim;
    tile.outputs[row] = outputs.data() + row * kHeadDim;
    tile.first_key[row] = row == kRows - 1 ? kAttentionSegment + 5 : 0;
    tile.end_key[row] = kKeys - static_cast<uint32_t>(kRows - 1 - row);
  }
  tile.blocks = blocks.data();
  tile.block_size = block_size;
  tile.keys = keys.data();
  tile.values = values.data();
  tile.block_stride = stride;
  kernels.attention(tile);
  trace->Add(keys, keys.size());
  trace->Add(outputs, outputs.size());
}

void RunSampling(const SamplingKernels& kernels, Trace* trace) {
  constexpr uint32_t kSize = 301;
  constexpr uint32_t kPadded = 320;
  constexpr uint32_t kSlack = 16;
  std::vector<float> row = Operands<float>(kSize, 6);
  row[200] = row[77];  // a tie
  const RowMax raw = kernels.row_max(row.data(), kSize);
  const RowMax best = kernels.arg_max(row.data(), kSize);
  for (const RowMax& found : {raw, best}) {
    trace->Add(found.max);
    trace->Add(static_cast<float>(found.index));
  }
  trace->Add(raw.finite);
  trace->Add(kernels.log_sum_exp(row.data(), kSize, raw.max));
  std::vector<uint32_t> top(20);
  kernels.top(row.data(), kSize, 20, top.data());
  for (const uint32_t index : top) trace->Add(static_cast<float>(index));

  std::vector<float> scores(kPadded);
  std::vector<float> weights(kPadded);
  kernels.score(row.data(), kSize, raw.max, 0.7f, scores.data(), weights.data());
  trace->Add(scores, kPadded);
  trace->Add(weights, kPadded);
  std::vector<float> some_scores(kPadded + kSlack);
  std::vector<float> some_weights(kPadded + kSlack);
  std::vector<uint32_t> some(kPadded + kSlack);
  uint32_t count = kernels.gather(scores.data(), weights.data(), kSize, scores[77], 0.0f,
                                  some_scores.data(), some_weights.data(), some.data());
  const auto add_some = [&] {
    trace->Add(static_cast<float>(count));
    trace->Add(some_scores, count);
    trace->Add(some_weights, count);
    for (uint32_t i = 0; i < count; ++i) trace->Add(static_cast<float>(some[i]));
  };
  add_some();
  const float pivot = 0.5f * scores[77];
  uint32_t above = 0;
  const double mass =
      kernels.mass_above(some_scores.data(), some_weights.data(), count, pivot, &above);
  trace->Add(static_cast<float>(mass));
  trace->Add(static_cast<float>(mass - static_cast<float>(mass)));
  trace->Add(static_cast<float>(above));
  float lowest = 0;
  float highest = 0;
  count = kernels.partition(some_scores.data(), some_weights.data(), some.data(), count, pivot,
                            /*upper=*/true, &lowest, &highest);
  add_some();
  trace->Add(lowest);
  trace->Add(highest);
  const KeptSet kept = {.threshold = scores[77], .end_tie = 150, .min_weight = 1e-6f};
  for (uint32_t position = 0; position < 8; ++position) {
    const GumbelKey key = {.seed = 0x123456789ABCDEF0, .position = position, .choice = 1};
    trace->Add(static_cast<float>(
        kernels.gumbel_arg_max(scores.data(), weights.data(), kSize, kept, key)));
  }
}

std::vector<float> ResultsOf(const CpuKernels& kernels) {
  Trace trace;
  ThreadPool pool(1);  // denormals are flushed, as in a step
  pool.Run([&](ThreadContext&) {
    RunElementwise(kernels.fp32, &trace);
    RunElementwise(kernels.bf16, &trace);
    for (const uint32_t block_size : {8u, 16u}) {
      RunAttention(kernels.fp32, block_size, &trace);
      RunAttention(kernels.bf16, block_size, &trace);
    }
    RunSampling(kernels.sampling, &trace);
  });
  return std::move(trace.numbers);
}

}  // namespace

bool SameResults(const CpuKernels& a, const CpuKernels& b) {
  return SameBits(ResultsOf(a), ResultsOf(b));
}

Isa FastestExactIsa() {
  std::vector<Isa> isas = UsableIsas();
  while (isas.back() != Isa::kPortable &&
         !SameResults(KernelsFor(isas.back()), KernelsFor(Isa::kPortable))) {
    isas.pop_back();
  }
  return isas.back();
}

}  // namespace quire
