#include "worker/device/cuda/device_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tests/worker/device/cuda/gpu_test.h"

namespace quire::cuda {
namespace {

using ::testing::HasSubstr;

class DeviceMemoryTest : public GpuTest {};

TEST_F(DeviceMemoryTest, MovesAndGivesBack) {
  DeviceBuffer first = Expect(DeviceBuffer::Create(1 << 20, "a buffer"));
  ASSERT_NE(first.data(), nullptr);
  EXPECT_EQ(first.size(), size_t{1} << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first.data()) % 256, 0u);
  void* const memory = first.data();
  DeviceBuffer second = std::move(first);
  EXPECT_EQ(second.data(), memory);
  EXPECT_EQ(first.data(), nullptr);
  EXPECT_EQ(first.size(), 0u);

  const DeviceBuffer none = Expect(DeviceBuffer::Create(0, "nothing"));
  EXPECT_EQ(none.data(), nullptr);
}

TEST_F(DeviceMemoryTest, SaysWhatDidNotFit) {
  const absl::StatusOr<DeviceBuffer> buffer =
      DeviceBuffer::Create(size_t{1} << 42, "something huge");
  ASSERT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted) << buffer.status();
  EXPECT_THAT(std::string(buffer.status().message()),
              HasSubstr("no room for something huge: 4194304.0 MiB asked for"));
  // Nothing of it is left for whoever looks next.
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(DeviceMemoryTest, CopiesThroughPinnedMemory) {
  const Stream stream = Expect(Stream::Create());
  const PinnedBuffer host = Expect(PinnedBuffer::Create(1024, "a copy"));
  const DeviceBuffer device = Expect(DeviceBuffer::Create(1024, "a copy"));
  std::memset(host.data(), 7, host.size());
  Expect(cudaMemcpyAsync(device.data(), host.data(), 1024, cudaMemcpyHostToDevice, stream.get()));
  const Event event = Expect(Event::Create());
  Expect(cudaEventRecord(event.get(), stream.get()));
  Expect(cudaEventSynchronize(event.get()));
  std::memset(host.data(), 0, host.size());
  Expect(cudaMemcpyAsync(host.data(), device.data(), 1024, cudaMemcpyDeviceToHost, stream.get()));
  EXPECT_TRUE(stream.Synchronize("a copy").ok());
  EXPECT_EQ(static_cast<uint8_t*>(host.data())[1023], 7);
}

TEST_F(DeviceMemoryTest, ReplaysACapturedGraph) {
  const Stream stream = Expect(Stream::Create());
  DeviceArray<uint8_t> bytes(std::vector<uint8_t>(64, 1));
  const auto set = [&] { return cudaMemsetAsync(bytes.data(), 9, 64, stream.get()); };
  const Graph graph = Expect(Graph::Capture(stream.get(), "a memset", set));
  EXPECT_EQ(bytes.Read(), std::vector<uint8_t>(64, 1));  // capturing ran nothing
  for (int i = 0; i < 2; ++i) {
    Expect(graph.Launch(stream.get()));
    EXPECT_EQ(bytes.Read(), std::vector<uint8_t>(64, 9));
    bytes.Write(std::vector<uint8_t>(64, 1));
  }
}

TEST_F(DeviceMemoryTest, AFailedCaptureLeavesTheStreamUsable) {
  const Stream stream = Expect(Stream::Create());
  const absl::StatusOr<Graph> graph =
      Graph::Capture(stream.get(), "a bad step", [] { return cudaErrorInvalidValue; });
  ASSERT_EQ(graph.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(graph.status().message()), HasSubstr("capturing a bad step"));
  DeviceArray<uint8_t> bytes(64);
  Expect(cudaMemsetAsync(bytes.data(), 3, 64, stream.get()));
  EXPECT_EQ(bytes.Read(), std::vector<uint8_t>(64, 3));
}

}  // namespace
}  // namespace quire::cuda
