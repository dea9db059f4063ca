#include "worker/device/cpu/gemm/isa.h"

#include <algorithm>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/device/cpu/gemm/self_test.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

TEST(IsaTest, NamesParseBack) {
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    const absl::StatusOr<Isa> parsed = ParseIsa(IsaName(isa));
    ASSERT_TRUE(parsed.ok()) << IsaName(isa);
    EXPECT_EQ(*parsed, isa);
  }
}

TEST(IsaTest, UnknownNameListsTheKnown) {
  const absl::StatusOr<Isa> parsed = ParseIsa("neon");
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("'neon'"));
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("portable, avx2, avx512"));
}

TEST(IsaTest, UsableAreSupportedAndSortedAndBeginWithPortable) {
  const std::vector<Isa> supported = SupportedIsas();
  const std::vector<Isa> usable = UsableIsas();
  ASSERT_FALSE(usable.empty());
  EXPECT_EQ(usable.front(), Isa::kPortable);
  EXPECT_TRUE(std::is_sorted(usable.begin(), usable.end()));
  EXPECT_TRUE(std::includes(supported.begin(), supported.end(), usable.begin(), usable.end()));
  // Plain FMAs are IEEE's, so nothing but a bf16 dot product can be dropped.
  for (Isa isa : supported) {
    if (isa == Isa::kAvx512Bf16) continue;
    EXPECT_TRUE(std::find(usable.begin(), usable.end(), isa) != usable.end()) << IsaName(isa);
  }
}

}  // namespace
}  // namespace quire
