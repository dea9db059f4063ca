#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "worker/device/cuda/device_info.h"
#include "worker/device/cuda/device_memory.h"

// What needs no GPU: how errors read.
namespace quire::cuda {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(CudaStatus, SuccessIsOk) { EXPECT_TRUE(CudaStatus(cudaSuccess, "a copy").ok()); }

TEST(CudaStatus, NamesTheCallAndTheError) {
  const absl::Status status = CudaStatus(cudaErrorInvalidValue, "the embedding");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("the embedding: cudaErrorInvalidValue: invalid argument"));
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("lost")));
}

TEST(CudaStatus, SaysThatTheDeviceIsLost) {
  for (cudaError_t error : {cudaErrorIllegalAddress, cudaErrorLaunchFailure,
                            cudaErrorECCUncorrectable, cudaErrorMisalignedAddress}) {
    EXPECT_TRUE(IsSticky(error));
    const absl::Status status = CudaStatus(error, "a step");
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), HasSubstr("the device is lost"));
  }
  EXPECT_FALSE(IsSticky(cudaErrorMemoryAllocation));
}

TEST(CudaStatus, TellsMemoryAndDriverApart) {
  EXPECT_EQ(CudaStatus(cudaErrorMemoryAllocation, "a graph").code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(CudaStatus(cudaErrorInsufficientDriver, "start").code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CudaStatus(cudaErrorNoDevice, "start").code(), absl::StatusCode::kFailedPrecondition);
}

TEST(OutOfMemoryError, GivesTheNumbers) {
  const absl::Status status =
      OutOfMemoryError("the KV pool", size_t{100} << 30, size_t{1} << 30, size_t{140} << 30);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(),
            "the GPU has no room for the KV pool: 102400.0 MiB asked for, 1024.0 MiB of 143360.0 "
            "MiB free");
}

TEST(CheckDriver, MissingTooOldAndNewEnough) {
  EXPECT_EQ(CheckDriver(0).message(),
            "there is no NVIDIA driver on this machine: a driver for CUDA 13.0 or newer is needed");
  EXPECT_EQ(CheckDriver(12040).message(),
            "the NVIDIA driver is too old: it serves CUDA 12.4, a driver for CUDA 13.0 or newer is "
            "needed");
  EXPECT_EQ(CheckDriver(12090).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(CheckDriver(13000).ok());
  EXPECT_TRUE(CheckDriver(13020).ok());
}

TEST(CheckDevice, NamesAnUnfitGpu) {
  DeviceInfo device;
  device.index = 2;
  device.name = "NVIDIA A100-SXM4-80GB";
  device.compute_major = 8;
  EXPECT_EQ(CheckDevice(device).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CheckDevice(device).message(),
            "GPU 2, NVIDIA A100-SXM4-80GB, has compute capability 8.0; the kernels are built for "
            "9.0 (H100, H200)");
  device.compute_major = 9;
  EXPECT_TRUE(CheckDevice(device).ok());
  device.compute_major = 10;
  EXPECT_FALSE(CheckDevice(device).ok());
}

TEST(FindDevice, FindsAFitGpuOrSaysWhyNot) {
  const absl::StatusOr<DeviceInfo> device = FindDevice(0);
  if (device.ok()) {
    EXPECT_FALSE(device->name.empty());
    EXPECT_GT(device->memory_bytes, size_t{1} << 30);
    EXPECT_GT(device->num_multiprocessors, 0);
  } else {
    EXPECT_EQ(device.status().code(), absl::StatusCode::kFailedPrecondition) << device.status();
  }
  EXPECT_EQ(FindDevice(1000).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace quire::cuda
