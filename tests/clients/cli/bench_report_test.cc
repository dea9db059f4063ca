#include "clients/cli/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quire {
namespace {

using ::testing::HasSubstr;

// Sent at `sent_ms`, first token after `ttft_ms`, then one every `gap_ms`.
RequestSample Record(int64_t sent_ms, int64_t ttft_ms, int64_t gap_ms, uint32_t num_tokens) {
  RequestSample record;
  record.sent = sent_ms * 1000;
  record.first_token = record.sent + ttft_ms * 1000;
  record.gaps.assign(num_tokens - 1, gap_ms * 1000);
  record.last_token = record.first_token + (num_tokens - 1) * gap_ms * 1000;
  record.prompt_tokens = 10;
  record.output_tokens = num_tokens;
  return record;
}

TEST(BenchReport, HasTheFiguresOfItsRequests) {
  RequestSample failed;
  failed.status = absl::ResourceExhaustedError("full");
  const auto json = BenchReport({Record(0, 100, 10, 11), Record(50, 300, 20, 6), failed, failed},
                                2.0, GoodputLimits{.ttft_ms = 200, .tpot_ms = 10}, {99, 99.9});
  EXPECT_EQ(json["completed"], 2);
  EXPECT_EQ(json["failed"], 2);
  EXPECT_EQ(json["total_input_tokens"], 20);
  EXPECT_EQ(json["total_output_tokens"], 17);
  EXPECT_EQ(json["request_throughput"], 1.0);
  EXPECT_EQ(json["request_goodput"], 0.5);
  EXPECT_EQ(json["output_throughput"], 8.5);
  EXPECT_EQ(json["total_token_throughput"], 18.5);
  EXPECT_EQ(json["mean_ttft_ms"], 200.0);
  EXPECT_EQ(json["std_ttft_ms"], 100.0);
  EXPECT_DOUBLE_EQ(json["p99_ttft_ms"].get<double>(), 298.0);
  EXPECT_EQ(json["median_tpot_ms"], 15.0);
  EXPECT_EQ(json["median_itl_ms"], 10.0);
  EXPECT_EQ(json["mean_e2el_ms"], 300.0);
  EXPECT_TRUE(json.contains("p99.9_itl_ms"));
  EXPECT_EQ(json["errors"]["RESOURCE_EXHAUSTED: full"], 2);
}

TEST(BenchReport, GoodputIsNullWithoutLimits) {
  EXPECT_TRUE(BenchReport({Record(0, 1, 1, 2)}, 1, {}, {99})["request_goodput"].is_null());
}

TEST(BenchReport, NothingCompletedIsZeros) {
  const auto json = BenchReport({}, 1, {}, {99});
  EXPECT_EQ(json["completed"], 0);
  EXPECT_EQ(json["p99_ttft_ms"], 0.0);
}

TEST(BenchDetails, HasEveryRequestInOrder) {
  RequestSample failed;
  failed.sent = 500'000;
  failed.status = absl::ResourceExhaustedError("full");
  const auto json = BenchDetails({Record(100, 250, 10, 3), failed});
  EXPECT_EQ(json["input_lens"], (std::vector<int>{10, 0}));
  EXPECT_EQ(json["output_lens"], (std::vector<int>{3, 0}));
  EXPECT_EQ(json["ttfts"], (std::vector<double>{0.25, 0}));
  EXPECT_EQ(json["itls"], (std::vector<std::vector<double>>{{0.01, 0.01}, {}}));
  EXPECT_EQ(json["request_errors"], (std::vector<std::string>{"", "RESOURCE_EXHAUSTED: full"}));
  EXPECT_EQ(json["start_times"], (std::vector<double>{0, 0.4}));
}

TEST(ParseGoodput, ReadsLimitsAndNamesWhatIsWrong) {
  const auto limits = ParseGoodput({"ttft:2000", "tpot:100", "e2el:5000.5"});
  ASSERT_TRUE(limits.ok());
  EXPECT_EQ(limits->ttft_ms, 2000);
  EXPECT_EQ(limits->tpot_ms, 100);
  EXPECT_EQ(limits->e2el_ms, 5000.5);
  EXPECT_THAT(ParseGoodput({"itl:1"}).status().message(), HasSubstr("itl is no metric"));
  EXPECT_FALSE(ParseGoodput({"ttft"}).ok());
  EXPECT_FALSE(ParseGoodput({"ttft:-1"}).ok());
}

}  // namespace
}  // namespace quire
