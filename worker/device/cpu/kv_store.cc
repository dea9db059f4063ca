#include "worker/device/cpu/kv_store.h"

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "scheduler/check.h"

namespace quire {

uint64_t KvGeometry::bytes_per_token() const {
  return uint64_t{2} * num_layers * num_kv_heads * head_dim * SizeOf(dtype);
}

absl::StatusOr<KvStore> KvStore::Create(const KvGeometry& geometry, uint32_t num_blocks) {
  QUIRE_CHECK(num_blocks > 0);
  const uint32_t block_size = geometry.block_size;
  if (block_size == 0 || (block_size != 8 && block_size % 16 != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("block_size ", block_size, ": the CPU executor takes 8 or a multiple of 16"));
  }
  const auto refusal = [&](absl::StatusCode code, absl::string_view why) {
    return absl::Status(code, absl::StrCat("KV cache of ", num_blocks, " blocks of ", block_size,
                                           " tokens: ", why));
  };
  uint64_t bytes = geometry.bytes_per_token();
  if (__builtin_mul_overflow(bytes, uint64_t{block_size}, &bytes) ||
      __builtin_mul_overflow(bytes, uint64_t{num_blocks}, &bytes)) {
    return refusal(absl::StatusCode::kResourceExhausted, "more bytes than 64 bits count");
  }
  absl::StatusOr<AlignedBuffer> buffer = AlignedBuffer::Create(bytes);
  if (!buffer.ok()) return refusal(buffer.status().code(), buffer.status().message());
  return KvStore(geometry, num_blocks, *std::move(buffer));
}

KvStore::KvStore(const KvGeometry& geometry, uint32_t num_blocks, AlignedBuffer buffer)
    : geometry_(geometry),
      num_blocks_(num_blocks),
      head_stride_(static_cast<size_t>(geometry.head_dim) * geometry.block_size),
      block_stride_(2 * geometry.num_kv_heads * head_stride_),
      buffer_(std::move(buffer)) {}

void KvStore::FillWithNan(BlockId block) {
  QUIRE_CHECK(block < num_blocks_);
  const size_t block_bytes = block_stride_ * SizeOf(geometry_.dtype);
  for (uint32_t layer = 0; layer < geometry_.num_layers; ++layer) {
    // All ones is a NaN in every dtype.
    std::memset(buffer_.data() + (static_cast<size_t>(layer) * num_blocks_ + block) * block_bytes,
                0xFF, block_bytes);
  }
}

}  // namespace quire
