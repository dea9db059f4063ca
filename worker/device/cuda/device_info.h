#ifndef QUIRE_WORKER_DEVICE_CUDA_DEVICE_INFO_H_
#define QUIRE_WORKER_DEVICE_CUDA_DEVICE_INFO_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Which GPU there is, and whether the kernels run on it.
namespace quire::cuda {

struct DeviceInfo {
  int index = 0;     // as cudaSetDevice takes it
  std::string name;  // "NVIDIA H200"
  size_t memory_bytes = 0;
  int num_multiprocessors = 0;
  int compute_major = 0;  // compute capability 9.0: major 9, minor 0
  int compute_minor = 0;
  int driver_cuda_version = 0;  // the newest CUDA that the driver serves: 13000 is 13.0
};

// A GPU that Quire can use. Errors: FAILED_PRECONDITION, in one line, where there is no driver, the
// driver is too old, there is no such GPU, or the kernels are not built for it. Touches no GPU's
// memory.
absl::StatusOr<DeviceInfo> FindDevice(int index);

// The checks of FindDevice. `driver_cuda_version` is 0 where there is no driver.
absl::Status CheckDriver(int driver_cuda_version);
absl::Status CheckDevice(const DeviceInfo& device);

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_DEVICE_INFO_H_
