#include "worker/device/cpu/gemm/aligned_buffer.h"

#include <sys/mman.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace quire {
namespace {

constexpr size_t kPageBytes = size_t{1} << 12;
constexpr size_t kHugePageBytes = size_t{1} << 21;
constexpr size_t kHugePagesFromBytes = size_t{1} << 18;

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

void AlignedBuffer::Unmap::operator()(std::byte* data) const { munmap(data, mapped_bytes); }

absl::StatusOr<AlignedBuffer> AlignedBuffer::Create(size_t size_bytes) {
  AlignedBuffer buffer;
  if (size_bytes == 0) return buffer;
  const absl::Status exhausted = absl::ResourceExhaustedError(
      absl::StrCat("cannot allocate ", size_bytes, " bytes of memory"));
  if (size_bytes > SIZE_MAX / 2) return exhausted;
  const bool huge = size_bytes >= kHugePagesFromBytes;
  const size_t wanted_bytes = RoundUp(size_bytes, huge ? kHugePageBytes : kPageBytes);
  // One huge page more than wanted leaves room to align; what sticks out is given back.
  const size_t mapped_bytes = wanted_bytes + (huge ? kHugePageBytes : 0);
  void* mapped =
      mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return exhausted;
  std::byte* begin = static_cast<std::byte*>(mapped);
  if (huge) {
    const size_t head_bytes = RoundUp(reinterpret_cast<uintptr_t>(begin), kHugePageBytes) -
                              reinterpret_cast<uintptr_t>(begin);
    const size_t tail_bytes = mapped_bytes - head_bytes - wanted_bytes;
    if (head_bytes > 0) munmap(begin, head_bytes);
    begin += head_bytes;
    if (tail_bytes > 0) munmap(begin + wanted_bytes, tail_bytes);
    // Advice: where the kernel has no huge pages, the memory is merely slower.
    madvise(begin, wanted_bytes, MADV_HUGEPAGE);
  }
  buffer.data_ = std::unique_ptr<std::byte, Unmap>(begin, Unmap{size_bytes, wanted_bytes});
  return buffer;
}

}  // namespace quire
