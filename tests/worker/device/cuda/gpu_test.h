#ifndef QUIRE_TESTS_WORKER_DEVICE_CUDA_GPU_TEST_H_
#define QUIRE_TESTS_WORKER_DEVICE_CUDA_GPU_TEST_H_

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <utility>
#include <vector>

#include "worker/device/cuda/device_info.h"
#include "worker/device/cuda/device_memory.h"

namespace quire::cuda {

// A test that needs a GPU: skipped, with the reason, where there is none that Quire can use.
class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<DeviceInfo> device = FindDevice(0);
    if (!device.ok()) GTEST_SKIP() << device.status().message();
  }
};

// Whether QUIRE_SANITIZED is set: compute-sanitizer slows kernels down a hundred times. Tests then
// go through fewer sizes, but through every kernel.
inline bool IsSanitized() { return std::getenv("QUIRE_SANITIZED") != nullptr; }

// For what can't fail unless the device is lost; the test ends there.
inline void Expect(const absl::Status& status) {
  if (status.ok()) return;
  std::cerr << status << std::endl;
  std::abort();
}
inline void Expect(cudaError_t error) { Expect(CudaStatus(error, "the test's own call")); }
template <typename T>
T Expect(absl::StatusOr<T> value) {
  Expect(value.status());
  return *std::move(value);
}

// An array on the device.
template <typename T>
class DeviceArray {
 public:
  // Every byte 0xff: a NaN in every floating-point type.
  explicit DeviceArray(size_t size)
      : buffer_(Expect(DeviceBuffer::Create(size * sizeof(T), "an array"))) {
    if (size != 0) Expect(cudaMemset(buffer_.data(), 0xff, buffer_.size()));
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { Write(values); }

  T* data() const { return static_cast<T*>(buffer_.data()); }
  size_t size() const { return buffer_.size() / sizeof(T); }

  void Write(const std::vector<T>& values) {
    if (size() == 0) return;
    Expect(cudaMemcpy(data(), values.data(), buffer_.size(), cudaMemcpyHostToDevice));
  }
  // Waits for all that was enqueued on the device.
  std::vector<T> Read() const {
    Expect(cudaDeviceSynchronize());
    std::vector<T> values(size());
    if (size() != 0) {
      Expect(cudaMemcpy(values.data(), data(), buffer_.size(), cudaMemcpyDeviceToHost));
    }
    return values;
  }

 private:
  DeviceBuffer buffer_;
};

}  // namespace quire::cuda

#endif  // QUIRE_TESTS_WORKER_DEVICE_CUDA_GPU_TEST_H_
