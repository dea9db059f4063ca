#include "benchmarks/workload.h"

#include <gtest/gtest.h>

#include "benchmarks/bench_support.h"

namespace quire {
namespace {

TEST(ParseWorkload, ReadsRequestsPromptAndNewTokens) {
  const auto work = ParseWorkload("8x1024/128");
  ASSERT_TRUE(work.ok());
  EXPECT_EQ(work->num_requests, 8);
  EXPECT_EQ(work->prompt_tokens, 1024);
  EXPECT_EQ(work->new_tokens, 128);
  EXPECT_EQ(work->context_tokens(), 1152);
}

TEST(ParseWorkload, NamesWhatItCannotRead) {
  for (const char* text : {"", "8", "8x1024", "8/1024x3", "0x2/3", "1x0/3", "1x2/0", "1x2/3/4",
                           "-1x2/3", "1x2/4294967296"}) {
    const auto work = ParseWorkload(text);
    EXPECT_EQ(work.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(work.status().message().find(text), std::string::npos) << text;
  }
}

TEST(Percentile, LiesBetweenTheNearestValues) {
  EXPECT_EQ(Median({3, 1, 2}), 2);
  EXPECT_EQ(Median({4, 1, 2, 3}), 2.5);
  EXPECT_EQ(Percentile({10, 20, 30}, 0), 10);
  EXPECT_EQ(Percentile({10, 20, 30}, 100), 30);
  EXPECT_DOUBLE_EQ(Percentile({10, 20, 30}, 75), 25);
}

}  // namespace
}  // namespace quire
