#include "worker/device/cpu/kv_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quire {
namespace {

using testing::HasSubstr;

constexpr KvGeometry kGeometry = {
    .num_layers = 4, .num_kv_heads = 2, .head_dim = 64, .block_size = 16, .dtype = DType::kF32};

TEST(KvStoreTest, RefusesABlockSizeThatTheKernelDoesNotTake) {
  for (const uint32_t block_size : {0u, 4u, 24u}) {
    KvGeometry geometry = kGeometry;
    geometry.block_size = block_size;
    EXPECT_EQ(KvStore::Create(geometry, 1).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// 2^12 bytes a token times 2^30 tokens a block times 2^31 blocks: in 64 bits that would be nothing.
TEST(KvStoreTest, ASizeThatWrapsIsAnError) {
  KvGeometry geometry = kGeometry;
  geometry.block_size = 1u << 30;
  const auto store = KvStore::Create(geometry, 1u << 31);
  EXPECT_EQ(store.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(store.status().message(), HasSubstr("2147483648 blocks of 1073741824 tokens"));
}

}  // namespace
}  // namespace quire
