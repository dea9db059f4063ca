// `quire generate` as a process, against a fake coordinator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <nlohmann/json.hpp>

#include "common/request_fields.h"
#include "common/rpc_status.h"
#include "tests/clients/cli/run_quire.h"
#include "tests/clients/fake_inference.h"
#include "tests/fakes/closed_port.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::SizeIs;
using ::testing::StartsWith;
using Json = nlohmann::ordered_json;

QuireResult Generate(const FakeInference& server, std::vector<std::string> flags,
                     const std::string& input = "") {
  flags.insert(flags.begin(), {"generate", "--target", server.target()});
  return RunQuire(flags, input);
}

TEST(GenerateCommand, StreamsTextAndSumsUp) {
  FakeInference server;
  const QuireResult result = Generate(server, {"--prompt", "hello", "--max-new-tokens", "3"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "0 1 2 \n");
  EXPECT_THAT(result.err, StartsWith("3 tokens, LENGTH, TTFT "));
}

TEST(GenerateCommand, PrintsTheObjectOfTheApi) {
  FakeInference server;
  const QuireResult result = Generate(
      server, {"--prompt", "hello", "--request-id", "r1", "--max-new-tokens", "2", "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  Json json = Json::parse(result.out);
  json.erase("parameters");
  EXPECT_EQ(
      json.dump(),
      R"({"request_id":"r1","token_ids":[0,1],"text":"0 1 ","finish_reason":"LENGTH",)"
      R"("usage":{"prompt_tokens":3,"cached_tokens":0,"output_tokens":2,"recomputed_tokens":0,)"
      R"("kv":{"reserved_bytes":4096,"used_bytes":4000,"max_unused_tokens":15}},)"
      R"("timings":{"queued_ms":0.0,"prefill_ms":0.0,"first_token_ms":1.5,"decode_ms":0.0},)"
      R"("seed":7,"worker":"w1","numerics_id":"numerics"})");
}

TEST(GenerateCommand, SeveralChoicesAreListedAndTheFirstRepeatedAbove) {
  FakeInference server;
  const QuireResult result =
      Generate(server, {"--prompt", "hello", "--n", "2", "--max-new-tokens", "2", "--json"});
  const Json json = Json::parse(result.out);
  EXPECT_EQ(json["text"], "0 1 ");
  ASSERT_EQ(json["choices"].size(), 2);
  EXPECT_EQ(json["choices"][0]["text"], "0 1 ");
  EXPECT_EQ(json["choices"][1]["token_ids"], Json({1000, 1001}));
}

TEST(GenerateCommand, EveryFlagReachesItsField) {
  FakeInference server;
  const QuireResult result = Generate(server, {"--request-id",
                                               "r",
                                               "--model",
                                               "m",
                                               "--engine",
                                               "HF_reference",
                                               "--worker",
                                               "w",
                                               "--token-ids",
                                               "1,2,3",
                                               "--no-add-special-tokens",
                                               "--temperature",
                                               "0.5",
                                               "--top-k",
                                               "4",
                                               "--top-p",
                                               "0.25",
                                               "--min-p",
                                               "0.125",
                                               "--seed",
                                               "4294967295",
                                               "--n",
                                               "1",
                                               "--repetition-penalty",
                                               "1.5",
                                               "--presence-penalty",
                                               "-2",
                                               "--frequency-penalty",
                                               "0.5",
                                               "--logit-bias",
                                               "5:-1.5,6:2",
                                               "--stop",
                                               "[a,b]",
                                               "--stop",
                                               "\n",
                                               "--stop-token-ids",
                                               "7,8",
                                               "--ignore-eos",
                                               "--include-stop-in-output",
                                               "--max-new-tokens",
                                               "9",
                                               "--min-new-tokens",
                                               "1",
                                               "--logprobs",
                                               "2",
                                               "--prompt-logprobs",
                                               "0",
                                               "--priority",
                                               "-3",
                                               "--queue-timeout-ms",
                                               "1000",
                                               "--timeout-ms",
                                               "2000000",
                                               "--cache-salt",
                                               "s",
                                               "--tenant",
                                               "t",
                                               "--resume-token-ids",
                                               "0,1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  ASSERT_THAT(server.requests(), SizeIs(1));
  const v1::GenerateRequest request = server.requests()[0];
  EXPECT_EQ(request.request_id(), "r");
  EXPECT_EQ(request.model(), "m");
  EXPECT_EQ(request.engine(), v1::HF_REFERENCE);
  EXPECT_EQ(request.worker(), "w");
  EXPECT_THAT(request.token_ids().ids(), ElementsAre(1, 2, 3));
  EXPECT_TRUE(request.has_add_special_tokens());
  EXPECT_FALSE(request.add_special_tokens());
  EXPECT_EQ(request.sampling().temperature(), 0.5f);
  EXPECT_EQ(request.sampling().top_k(), 4);
  EXPECT_EQ(request.sampling().top_p(), 0.25f);
  EXPECT_EQ(request.sampling().min_p(), 0.125f);
  EXPECT_EQ(request.sampling().seed(), 4294967295u);
  EXPECT_EQ(request.penalties().repetition(), 1.5f);
  EXPECT_EQ(request.penalties().presence(), -2.0f);
  EXPECT_EQ(request.penalties().frequency(), 0.5f);
  EXPECT_EQ(request.logit_bias().at(5), -1.5f);
  EXPECT_EQ(request.logit_bias().at(6), 2.0f);
  EXPECT_THAT(request.stop().strings(), ElementsAre("[a,b]", "\n"));
  EXPECT_THAT(request.stop().token_ids(), ElementsAre(7, 8));
  EXPECT_TRUE(request.stop().ignore_eos());
  EXPECT_TRUE(request.stop().include_stop_in_output());
  EXPECT_EQ(request.max_new_tokens(), 9);
  EXPECT_EQ(request.min_new_tokens(), 1);
  EXPECT_EQ(request.logprobs(), 2);
  EXPECT_TRUE(request.has_prompt_logprobs());
  EXPECT_EQ(request.priority(), -3);
  EXPECT_EQ(request.queue_timeout_ms(), 1000);
  EXPECT_THAT(request.timeout_ms(), AllOf(Le(2'000'000u), Gt(1'000'000u)));  // what is left
  EXPECT_EQ(request.cache_salt(), "s");
  EXPECT_EQ(request.tenant(), "t");
  EXPECT_THAT(request.resume().choices(0).emitted_token_ids(), ElementsAre(0, 1));
}

TEST(GenerateCommand, FieldsWithoutTheirFlagAreNotSet) {
  FakeInference server;
  Generate(server, {"--prompt", "x", "--request-id", "r"});
  v1::GenerateRequest expected;
  expected.set_request_id("r");
  expected.set_text("x");
  EXPECT_EQ(server.requests()[0].SerializeAsString(), expected.SerializeAsString());
}

TEST(GenerateCommand, HasAFlagForEveryFieldOfTheTable) {
  const QuireResult help = RunQuire({"generate", "--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const RequestField& field : RequestFields()) {
    EXPECT_THAT(help.out, HasSubstr("--" + std::string(field.flag))) << field.path;
  }
}

TEST(GenerateCommand, AnEmptyPromptIsForTheServerToRefuse) {
  FakeInference server;
  Generate(server, {"--prompt", ""});
  ASSERT_THAT(server.requests(), SizeIs(1));
  EXPECT_TRUE(server.requests()[0].has_text());
  EXPECT_EQ(server.requests()[0].text(), "");
}

TEST(GenerateCommand, TakesPromptsFromStandardInput) {
  FakeInference server;
  Generate(server, {"--prompt-file", "-"}, "from a pipe\n");
  EXPECT_EQ(server.requests()[0].text(), "from a pipe\n");
}

TEST(GenerateCommand, TakesChatMessages) {
  FakeInference server;
  const QuireResult result = Generate(
      server, {"--chat",
               R"([{"role":"user","content":"hi","name":"Ann"},{"role":"assistant","content":"",)"
               R"("tool_calls":[{"b":1,"a":2}]}])",
               "--message", "user=a=b", "--tools", "[]", "--template-kwargs", "{\"x\":1}",
               "--no-add-generation-prompt"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const v1::Chat chat = server.requests()[0].chat();
  ASSERT_EQ(chat.messages_size(), 3);
  EXPECT_EQ(chat.messages(0).name(), "Ann");
  EXPECT_EQ(chat.messages(1).tool_calls(), R"([{"b":1,"a":2}])");
  EXPECT_EQ(chat.messages(2).content(), "a=b");
  EXPECT_EQ(chat.tools(), "[]");
  EXPECT_EQ(chat.template_kwargs(), "{\"x\":1}");
  EXPECT_TRUE(chat.has_add_generation_prompt());
  EXPECT_FALSE(chat.add_generation_prompt());
}

TEST(GenerateCommand, WrongCommandLinesExitWithTwo) {
  FakeInference server;
  EXPECT_EQ(RunQuire({}).exit_code, 2);
  EXPECT_EQ(RunQuire({"generate"}).exit_code, 2);
  EXPECT_EQ(RunQuire({"frobnicate"}).exit_code, 2);
  EXPECT_EQ(RunQuire({"generate", "--target", "nowhere", "--prompt", "x"}).exit_code, 2);
  for (const std::vector<std::string>& flags :
       std::vector<std::vector<std::string>>{{"--seed", "4294967296"},
                                             {"--top-k", "-1"},
                                             {"--engine", "steam"},
                                             {"--logit-bias", "5"},
                                             {"--token-ids", "1,x"},
                                             {"--chat", "{"},
                                             {"--prompt-file", "/nonexistent"}}) {
    const QuireResult result = Generate(server, flags);
    EXPECT_EQ(result.exit_code, 2) << flags[0] << " " << flags[1];
    EXPECT_THAT(result.err, HasSubstr(flags[0]));
  }
  EXPECT_THAT(server.requests(), SizeIs(0));
}

TEST(GenerateCommand, PrintsTheServersWordsFieldAndRetryDelay) {
  FakeInference server;
  server.set_generate(
      [](grpc::ServerContext*, const v1::GenerateRequest& request, FakeInference::Writer*) {
        if (request.has_timeout_ms()) {
          return ToGrpc(WithRetryDelay(absl::ResourceExhaustedError("the queues are full"), 250));
        }
        return ToGrpc(
            WithField(absl::InvalidArgumentError("3 is not in 0 to 2"), "sampling.temperature"));
      });
  QuireResult result = Generate(server, {"--prompt", "x", "--temperature", "3"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.err,
            "quire: INVALID_ARGUMENT: 3 is not in 0 to 2 (field sampling.temperature)\n");
  EXPECT_EQ(result.out, "");
  result = Generate(server, {"--prompt", "x", "--timeout-ms", "5", "--json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.err, "quire: RESOURCE_EXHAUSTED: the queues are full (retry after 250 ms)\n");
  EXPECT_EQ(result.out, "");
}

TEST(GenerateCommand, AnUnreachableCoordinatorIsAnError) {
  const ClosedPort closed;
  const QuireResult result = RunQuire({"generate", "--target", closed.address().ToString(),
                                       "--prompt", "x", "--max-attempts", "2"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("quire: UNAVAILABLE: "));
}

TEST(GenerateCommand, TriesTheNextTarget) {
  FakeInference first, second;
  first.LoseAfter(1, grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone"));
  const QuireResult result =
      RunQuire({"generate", "--target", first.target() + "," + second.target(), "--prompt", "x"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "0 1 2 3 \n");
  EXPECT_THAT(result.err, HasSubstr("going on at " + second.target() + " after UNAVAILABLE: gone"));
}

TEST(GenerateCommand, CtrlCCancelsAndStillReportsUsage) {
  FakeInference server;
  server.set_token_time(std::chrono::milliseconds(1));
  QuireProcess process({"generate", "--target", server.target(), "--prompt", "x", "--request-id",
                        "r1", "--max-new-tokens", "1000000", "--json"});
  server.WaitForRequests(1);
  process.Signal(SIGINT);
  const QuireResult result = process.Wait();
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_THAT(result.err, HasSubstr("CANCELLED"));
}

}  // namespace
}  // namespace quire
