#include "worker/device/cuda/device_info.h"

#include <cuda_runtime_api.h>

#include "absl/strings/str_cat.h"
#include "worker/device/cuda/device_memory.h"

namespace quire::cuda {
namespace {

// What the kernels are compiled for: sm_90a, which runs on this and nothing newer.
constexpr int kComputeMajor = 9;
constexpr int kComputeMinor = 0;

std::string VersionName(int cuda_version) {
  return absl::StrCat(cuda_version / 1000, ".", cuda_version % 1000 / 10);
}

// The oldest CUDA whose drivers serve this runtime: all of its major version.
constexpr int kNeededCudaVersion = CUDART_VERSION / 1000 * 1000;

}  // namespace

absl::Status CheckDriver(int driver_cuda_version) {
  if (driver_cuda_version >= kNeededCudaVersion) return absl::OkStatus();
  const std::string needed =
      absl::StrCat("a driver for CUDA ", VersionName(kNeededCudaVersion), " or newer is needed");
  if (driver_cuda_version == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is no NVIDIA driver on this machine: ", needed));
  }
  return absl::FailedPreconditionError(absl::StrCat("the NVIDIA driver is too old: it serves CUDA ",
                                                    VersionName(driver_cuda_version), ", ",
                                                    needed));
}

absl::Status CheckDevice(const DeviceInfo& device) {
  if (device.compute_major == kComputeMajor && device.compute_minor == kComputeMinor) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("GPU ", device.index, ", ", device.name, ", has compute capability ",
                   device.compute_major, ".", device.compute_minor, "; the kernels are built for ",
                   kComputeMajor, ".", kComputeMinor, " (H100, H200)"));
}

absl::StatusOr<DeviceInfo> FindDevice(int index) {
  DeviceInfo device;
  device.index = index;
  cudaError_t error = cudaDriverGetVersion(&device.driver_cuda_version);
  if (error != cudaSuccess) return CudaStatus(error, "asking for the driver's version");
  if (absl::Status status = CheckDriver(device.driver_cuda_version); !status.ok()) return status;

  int count = 0;
  error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess && error != cudaErrorNoDevice) {
    return CudaStatus(error, "counting the GPUs");
  }
  if (index < 0 || index >= count) {
    (void)cudaGetLastError();
    return absl::FailedPreconditionError(
        absl::StrCat("there is no GPU ", index, ": this process sees ", count));
  }
  cudaDeviceProp properties;
  error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess) return CudaStatus(error, absl::StrCat("asking about GPU ", index));
  device.name = properties.name;
  device.memory_bytes = properties.totalGlobalMem;
  device.num_multiprocessors = properties.multiProcessorCount;
  device.compute_major = properties.major;
  device.compute_minor = properties.minor;
  if (absl::Status status = CheckDevice(device); !status.ok()) return status;
  return device;
}

}  // namespace quire::cuda
