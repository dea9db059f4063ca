// `quire bench` as a process, against a fake coordinator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "tests/clients/cli/run_quire.h"
#include "tests/clients/fake_inference.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;
using Json = nlohmann::json;

QuireResult Bench(const FakeInference& server, std::vector<std::string> flags) {
  flags.insert(flags.begin(), {"bench", "--target", server.target()});
  return RunQuire(flags);
}

TEST(BenchCommand, AClosedLoopReportsUnderTheNamesOfVllm) {
  FakeInference server;
  const QuireResult result =
      Bench(server, {"--prompt", "a", "--prompt", "b", "--num-prompts", "10", "--concurrency", "4",
                     "--max-new-tokens", "5", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["completed"], 10);
  EXPECT_EQ(json["total_output_tokens"], 50);
  EXPECT_EQ(json["total_input_tokens"], 30);
  EXPECT_EQ(json["request_rate"], "inf");
  EXPECT_EQ(json["model_id"], "tiny");
  EXPECT_GT(json["duration"], 0);
  for (const char* metric : {"ttft_ms", "tpot_ms", "itl_ms", "e2el_ms"}) {
    for (const char* figure : {"mean", "median", "std", "p99"}) {
      EXPECT_TRUE(json.contains(std::string(figure) + "_" + metric)) << figure << metric;
    }
  }
  ASSERT_THAT(server.requests(), SizeIs(11));  // one to warm up
  EXPECT_EQ(server.requests()[0].text(), "a");
}

TEST(BenchCommand, RandomPromptsAreTheSeedsOwn) {
  const auto prompts = [](const std::string& seed) {
    FakeInference server;
    const QuireResult result =
        Bench(server, {"--random-input-len", "8", "--random-output-len", "2", "--num-prompts", "3",
                       "--num-warmups", "0", "--concurrency", "1", "--seed", seed});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    std::vector<std::vector<uint32_t>> prompts;
    for (const v1::GenerateRequest& request : server.requests()) {
      EXPECT_EQ(request.max_new_tokens(), 2);
      EXPECT_TRUE(request.stop().ignore_eos());
      prompts.emplace_back(request.token_ids().ids().begin(), request.token_ids().ids().end());
      EXPECT_THAT(prompts.back(), SizeIs(8));
      for (const uint32_t id : prompts.back()) EXPECT_LT(id, 50);
    }
    return prompts;
  };
  const auto first = prompts("1");
  EXPECT_EQ(first, prompts("1"));
  EXPECT_NE(first, prompts("2"));
  EXPECT_NE(first[0], first[1]);
}

TEST(BenchCommand, LogNormalLengthsInDetail) {
  FakeInference server;
  const QuireResult result =
      Bench(server, {"--random-input-len", "8", "--random-output-len", "4", "--random-len-sigma",
                     "1", "--random-len-max", "12", "--num-prompts", "20", "--num-warmups", "0",
                     "--save-detailed", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  std::set<int> lengths;
  for (const v1::GenerateRequest& request : server.requests()) {
    lengths.insert(request.token_ids().ids_size());
    EXPECT_LE(request.max_new_tokens(), 12);
  }
  EXPECT_GT(lengths.size(), 4);
  EXPECT_EQ(*lengths.rbegin(), 12);
  const Json json = Json::parse(result.out);
  for (const char* column : {"input_lens", "output_lens", "ttfts", "itls", "start_times"}) {
    EXPECT_THAT(json[column], SizeIs(20)) << column;
  }
}

TEST(BenchCommand, AnOpenLoopWithGoodput) {
  FakeInference server;
  const QuireResult result =
      Bench(server, {"--prompt", "a", "--num-prompts", "10", "--request-rate", "500", "--seed", "3",
                     "--goodput", "ttft:60000", "tpot:60000", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["request_rate"], 500.0);
  EXPECT_EQ(json["request_goodput"], json["request_throughput"]);
}

TEST(BenchCommand, FailedRequestsAreCountedAndFailTheRun) {
  FakeInference server;
  server.set_generate([&](grpc::ServerContext* context, const v1::GenerateRequest& request,
                          FakeInference::Writer* writer) {
    if (server.requests().size() % 2 == 0) {
      return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queues are full");
    }
    return server.DefaultGenerate(context, request, writer);
  });
  const QuireResult result = Bench(server, {"--prompt", "a", "--num-prompts", "4", "--num-warmups",
                                            "0", "--concurrency", "1", "--json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("2 x RESOURCE_EXHAUSTED: the queues are full"));
  EXPECT_EQ(Json::parse(result.out)["failed"], 2);
}

TEST(BenchCommand, HundredsOfStreamsAtOnce) {
  FakeInference server;
  server.set_token_time(std::chrono::milliseconds(2));
  const QuireResult result =
      Bench(server, {"--prompt", "a", "--num-prompts", "256", "--concurrency", "256",
                     "--max-new-tokens", "20", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Json::parse(result.out)["total_output_tokens"], 256 * 20);
}

TEST(BenchCommand, WrongFlagsExitWithTwo) {
  FakeInference server;
  EXPECT_EQ(Bench(server, {"--prompt", "a", "--request-rate", "0"}).exit_code, 2);
  EXPECT_EQ(Bench(server, {"--prompt", "a", "--goodput", "itl:3"}).exit_code, 2);
  EXPECT_EQ(Bench(server, {"--prompt", "a", "--random-input-len", "3"}).exit_code, 2);
  EXPECT_NE(Bench(server, {}).exit_code, 0);
  const QuireResult result = Bench(server, {"--prompt", "a", "--model", "large"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("there is no model \"large\"; there is: tiny"));
}

}  // namespace
}  // namespace quire
