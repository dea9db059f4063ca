#include "tests/worker/device/cuda/elementwise_time.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <vector>

#include "tests/worker/device/cuda/gpu_test.h"
#include "worker/device/cuda/kernels/elementwise.h"
#include "worker/device/cuda/kernels/kv_layout.h"

namespace quire::cuda {
namespace {

constexpr int kLaunches = 40;  // in a graph, so that the host's pace does not count
constexpr int kRuns = 20;

constexpr uint32_t kHidden = 4096;
constexpr uint32_t kIntermediate = 14336;
constexpr uint32_t kHeads = 32;
constexpr uint32_t kKvHeads = 8;
constexpr uint32_t kHeadDim = 128;
constexpr uint32_t kVocabulary = 128256;
constexpr uint32_t kBlockSize = 16;
constexpr uint32_t kQkv = (kHeads + 2 * kKvHeads) * kHeadDim;

// Median over kRuns graphs, in microseconds a launch.
double Microseconds(const Stream& stream, const std::function<cudaError_t()>& launch) {
  const Graph graph = Expect(Graph::Capture(stream.get(), "a timing", [&] {
    cudaError_t error = cudaSuccess;
    for (int i = 0; i < kLaunches && error == cudaSuccess; ++i) error = launch();
    return error;
  }));
  const Event begin = Expect(Event::CreateTimed());
  const Event end = Expect(Event::CreateTimed());
  std::vector<double> times;
  for (int i = -3; i < kRuns; ++i) {
    Expect(cudaEventRecord(begin.get(), stream.get()));
    Expect(graph.Launch(stream.get()));
    Expect(cudaEventRecord(end.get(), stream.get()));
    Expect(stream.Synchronize("a timing"));
    float milliseconds = 0;
    Expect(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()));
    if (i >= 0) times.push_back(milliseconds * 1000 / kLaunches);
  }
  std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
  return times[kRuns / 2];
}

void PrintTimes(uint32_t rows) {
  const Stream stream = Expect(Stream::Create());
  const auto zeros = [](size_t elements) {
    return DeviceArray<uint16_t>(std::vector<uint16_t>(elements));
  };
  const auto line = [&](const char* name, size_t bytes,
                        const std::function<cudaError_t()>& launch) {
    const double us = Microseconds(stream, launch);
    std::printf("%-24s %6u %9.2f %10.0f\n", name, rows, us, bytes / us / 1000);
  };
  const size_t row_bytes = size_t{rows} * kHidden * 2;

  const DeviceArray<uint16_t> embedding = zeros(size_t{kVocabulary} * kHidden);
  const DeviceArray<uint16_t> hidden = zeros(row_bytes / 2), delta = zeros(row_bytes / 2),
                              normed = zeros(row_bytes / 2), weight = zeros(kHidden);
  const DeviceArray<uint8_t> faults(std::vector<uint8_t>(rows, 0));
  std::vector<int32_t> tokens, slots, positions, tables;
  for (uint32_t r = 0; r < rows; ++r) {
    tokens.push_back(r * 7919 % kVocabulary);
    slots.push_back(r);
    positions.push_back(r * 31 % 2048);
    for (uint32_t i = 0; i < 2048 / kBlockSize; ++i) tables.push_back(r);
  }
  const DeviceArray<int32_t> row_tokens(tokens), row_slots(slots), row_positions(positions),
      block_tables(tables);

  EmbedArgs embed;
  embed.num_rows = rows;
  embed.hidden_size = kHidden;
  embed.embedding = embedding.data();
  embed.row_tokens = row_tokens.data();
  embed.row_slots = row_slots.data();
  embed.hidden = hidden.data();
  embed.faults = faults.data();
  line("embed", 2 * row_bytes, [&] { return Embed(embed, stream.get()); });

  AddNormArgs norm;
  norm.num_rows = rows;
  norm.hidden_size = kHidden;
  norm.eps = 1e-5f;
  norm.hidden = hidden.data();
  norm.delta = delta.data();
  norm.weight = weight.data();
  norm.normed = normed.data();
  norm.faults = faults.data();
  line("residual and norm", 4 * row_bytes, [&] { return AddNorm(norm, stream.get()); });

  const DeviceArray<uint16_t> qkv = zeros(size_t{rows} * kQkv), head_norm = zeros(kHeadDim);
  const DeviceArray<float> angles(std::vector<float>(2048 * kHeadDim / 2));
  const KvLayout layout{kKvHeads, kBlockSize, kHeadDim};
  const DeviceArray<uint16_t> kv = zeros(rows * layout.block_stride());
  RotateStoreArgs rotate;
  rotate.num_rows = rows;
  rotate.num_heads = kHeads;
  rotate.num_kv_heads = kKvHeads;
  rotate.head_dim = kHeadDim;
  rotate.block_size = kBlockSize;
  rotate.qkv = qkv.data();
  rotate.cos = angles.data();
  rotate.sin = angles.data();
  rotate.row_slots = row_slots.data();
  rotate.row_positions = row_positions.data();
  rotate.block_tables = block_tables.data();
  rotate.table_stride = 2048 / kBlockSize;
  rotate.kv = kv.data();
  const size_t rotate_bytes = size_t{rows} * kQkv * 4;
  line("rotate and store", rotate_bytes, [&] { return RotateStore(rotate, stream.get()); });
  rotate.q_norm = rotate.k_norm = head_norm.data();
  line("with q and k norm", rotate_bytes, [&] { return RotateStore(rotate, stream.get()); });

  const DeviceArray<uint16_t> gate_up = zeros(size_t{rows} * 2 * kIntermediate);
  const DeviceArray<uint16_t> out = zeros(size_t{rows} * kIntermediate);
  SiluMulArgs silu;
  silu.num_rows = rows;
  silu.size = kIntermediate;
  silu.gate_up = gate_up.data();
  silu.out = out.data();
  line("silu and product", size_t{rows} * kIntermediate * 6,
       [&] { return SiluMul(silu, stream.get()); });
}

}  // namespace

void PrintElementwiseTimes() {
  const absl::StatusOr<DeviceInfo> device = FindDevice(0);
  if (!device.ok()) return;
  std::printf("\n%s: Llama 3.1 8B's shapes, bf16; a launch in a graph of %d, median of %d\n",
              device->name.c_str(), kLaunches, kRuns);
  std::printf("%-24s %6s %9s %10s\n", "", "rows", "us", "GB/s");
  for (uint32_t rows : {1u, 256u, 1024u}) PrintTimes(rows);
}

}  // namespace quire::cuda
