#ifndef QUIRE_WORKER_DEVICE_CUDA_DEVICE_MEMORY_H_
#define QUIRE_WORKER_DEVICE_CUDA_DEVICE_MEMORY_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <type_traits>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// What the executor holds on the device: memory, streams, events and graphs. Everything here is
// move-only and given back when it goes; whatever uses it on the device must have ended by then.
// All of it belongs to the device that was current when it was made.
namespace quire::cuda {

// OK for cudaSuccess, else "what: the error's name: its description": RESOURCE_EXHAUSTED for
// memory, FAILED_PRECONDITION for a missing or unfit device or driver, INTERNAL for the rest. After
// an error of the last kind for which IsSticky holds, no call on the device succeeds in this
// process.
absl::Status CudaStatus(cudaError_t error, absl::string_view what);
bool IsSticky(cudaError_t error);

// RESOURCE_EXHAUSTED with the numbers.
absl::Status OutOfMemoryError(absl::string_view what, size_t asked_bytes, size_t free_bytes,
                              size_t total_bytes);

// Memory of the device, aligned to 256 bytes, its content undefined.
class DeviceBuffer {
 public:
  // `what` names the memory in errors: "the KV pool". No bytes: data() is null.
  static absl::StatusOr<DeviceBuffer> Create(size_t bytes, absl::string_view what);
  DeviceBuffer() = default;

  void* data() const { return memory_.get(); }
  size_t size() const { return memory_ ? size_ : 0; }  // bytes

 private:
  struct Free {
    void operator()(void* memory) const { cudaFree(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

// Page-locked memory of the host, which the device copies from and to without the host waiting.
class PinnedBuffer {
 public:
  static absl::StatusOr<PinnedBuffer> Create(size_t bytes, absl::string_view what);
  PinnedBuffer() = default;

  void* data() const { return memory_.get(); }
  size_t size() const { return memory_ ? size_ : 0; }  // bytes

 private:
  struct Free {
    void operator()(void* memory) const { cudaFreeHost(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

// A stream that does not wait for the default one.
class Stream {
 public:
  static absl::StatusOr<Stream> Create();
  Stream() = default;

  cudaStream_t get() const { return stream_.get(); }
  // Waits until all that was enqueued has run, and says whether it did.
  absl::Status Synchronize(absl::string_view what) const;

 private:
  struct Destroy {
    void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
  };
  std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Destroy> stream_;
};

// A point in a stream. Only a timed one serves cudaEventElapsedTime; who waits for the other kind
// sleeps.
class Event {
 public:
  static absl::StatusOr<Event> Create();
  static absl::StatusOr<Event> CreateTimed();
  Event() = default;

  cudaEvent_t get() const { return event_.get(); }

 private:
  struct Destroy {
    void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
  };
  static absl::StatusOr<Event> CreateWithFlags(unsigned flags);

  std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroy> event_;
};

// Work captured once, to be launched many times.
class Graph {
 public:
  // Records what `enqueue` puts on `stream`, none of which runs, and brings it to the device.
  // `what` names the work in errors. An error of `enqueue` ends the recording; the stream is as
  // before.
  static absl::StatusOr<Graph> Capture(cudaStream_t stream, absl::string_view what,
                                       absl::FunctionRef<cudaError_t()> enqueue);
  Graph() = default;

  // REQUIRES: captured.
  cudaError_t Launch(cudaStream_t stream) const { return cudaGraphLaunch(graph_.get(), stream); }
  explicit operator bool() const { return graph_ != nullptr; }

 private:
  struct Destroy {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
  };
  std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy> graph_;
};

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_DEVICE_MEMORY_H_
