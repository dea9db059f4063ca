#ifndef QUIRE_WORKER_DEVICE_CPU_GEMM_ALIGNED_BUFFER_H_
#define QUIRE_WORKER_DEVICE_CPU_GEMM_ALIGNED_BUFFER_H_

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"

namespace quire {

// Zeroed memory for weights, caches and scratch, aligned to 64 bytes at least. From 256 KiB up it
// is aligned to 2 MiB and asks for transparent huge pages: without them the address translation of
// 1 GB of weights costs a good part of the memory's read speed. Pages are touched on first use.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;

  // RESOURCE_EXHAUSTED, naming the size, when the system refuses.
  static absl::StatusOr<AlignedBuffer> Create(size_t size_bytes);

  std::byte* data() const { return data_.get(); }
  size_t size_bytes() const { return data_ == nullptr ? 0 : data_.get_deleter().size_bytes; }

 private:
  struct Unmap {
    size_t size_bytes;
    size_t mapped_bytes;
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Unmap> data_;
};

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_GEMM_ALIGNED_BUFFER_H_
