#include "worker/device/cuda/device_memory.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace quire::cuda {
namespace {

absl::StatusCode CodeOf(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::StatusCode::kResourceExhausted;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorDevicesUnavailable:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorNoKernelImageForDevice:
      return absl::StatusCode::kFailedPrecondition;
    default:
      return absl::StatusCode::kInternal;
  }
}

std::string Mebibytes(size_t bytes) {
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

// For a failed allocation.
absl::Status AllocationStatus(cudaError_t error, absl::string_view what, size_t bytes) {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  if (error == cudaErrorMemoryAllocation &&
      cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess) {
    (void)cudaGetLastError();
    return OutOfMemoryError(what, bytes, free_bytes, total_bytes);
  }
  return CudaStatus(error, absl::StrCat("allocating ", Mebibytes(bytes), " for ", what));
}

}  // namespace

bool IsSticky(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorExternalDevice:
      return true;
    default:
      return false;
  }
}

absl::Status CudaStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  // What is not sticky is forgotten, so that a later look at the last error does not find it.
  (void)cudaGetLastError();
  return absl::Status(CodeOf(error), absl::StrCat(what, ": ", cudaGetErrorName(error), ": ",
                                                  cudaGetErrorString(error),
                                                  IsSticky(error) ? "; the device is lost" : ""));
}

absl::Status OutOfMemoryError(absl::string_view what, size_t asked_bytes, size_t free_bytes,
                              size_t total_bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat("the GPU has no room for ", what, ": ", Mebibytes(asked_bytes), " asked for, ",
                   Mebibytes(free_bytes), " of ", Mebibytes(total_bytes), " free"));
}

absl::StatusOr<DeviceBuffer> DeviceBuffer::Create(size_t bytes, absl::string_view what) {
  void* memory = nullptr;
  const cudaError_t error = bytes == 0 ? cudaSuccess : cudaMalloc(&memory, bytes);
  if (error != cudaSuccess) return AllocationStatus(error, what, bytes);
  DeviceBuffer buffer;
  buffer.memory_.reset(memory);
  buffer.size_ = bytes;
  return buffer;
}

absl::StatusOr<PinnedBuffer> PinnedBuffer::Create(size_t bytes, absl::string_view what) {
  void* memory = nullptr;
  const cudaError_t error =
      bytes == 0 ? cudaSuccess : cudaHostAlloc(&memory, bytes, cudaHostAllocDefault);
  if (error != cudaSuccess) {
    return CudaStatus(error, absl::StrCat("page-locking ", Mebibytes(bytes), " for ", what));
  }
  PinnedBuffer buffer;
  buffer.memory_.reset(memory);
  buffer.size_ = bytes;
  return buffer;
}

absl::StatusOr<Stream> Stream::Create() {
  cudaStream_t stream = nullptr;
  const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) return CudaStatus(error, "making a stream");
  Stream made;
  made.stream_.reset(stream);
  return made;
}

absl::Status Stream::Synchronize(absl::string_view what) const {
  return CudaStatus(cudaStreamSynchronize(get()), what);
}

absl::StatusOr<Event> Event::Create() {
  return CreateWithFlags(cudaEventDisableTiming | cudaEventBlockingSync);
}
absl::StatusOr<Event> Event::CreateTimed() { return CreateWithFlags(cudaEventDefault); }

absl::StatusOr<Event> Event::CreateWithFlags(unsigned flags) {
  cudaEvent_t event = nullptr;
  const cudaError_t error = cudaEventCreateWithFlags(&event, flags);
  if (error != cudaSuccess) return CudaStatus(error, "making an event");
  Event made;
  made.event_.reset(event);
  return made;
}

absl::StatusOr<Graph> Graph::Capture(cudaStream_t stream, absl::string_view what,
                                     absl::FunctionRef<cudaError_t()> enqueue) {
  cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (error != cudaSuccess) return CudaStatus(error, what);
  const cudaError_t enqueued = enqueue();
  cudaGraph_t recorded = nullptr;
  error = cudaStreamEndCapture(stream, &recorded);
  if (enqueued != cudaSuccess) error = enqueued;
  cudaGraphExec_t executable = nullptr;
  if (error == cudaSuccess) error = cudaGraphInstantiate(&executable, recorded, 0);
  if (recorded != nullptr) cudaGraphDestroy(recorded);
  Graph graph;
  graph.graph_.reset(executable);
  if (error == cudaSuccess) error = cudaGraphUpload(executable, stream);
  if (error != cudaSuccess) return CudaStatus(error, absl::StrCat("capturing ", what));
  return graph;
}

}  // namespace quire::cuda
