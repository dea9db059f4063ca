// The small verbs of `quire` as processes, against a fake coordinator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/clients/cli/run_quire.h"
#include "tests/clients/fake_inference.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(LoadCommand, PrintsEveryWorkerWithItsZeros) {
  FakeInference server;
  v1::WorkerLoad* worker = server.load().add_workers();
  worker->set_name("w1");
  worker->set_model("tiny");
  worker->set_engine(v1::PAGED);
  worker->set_state(v1::WorkerLoad::READY);
  worker->set_blocks_free(100);
  worker->set_blocks_total(100);
  worker->set_dtype("bf16");
  worker->set_kv_reserved_bytes(uint64_t{1} << 40);
  const QuireResult result = RunQuire({"load", "--target", server.target(), "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(
      result.out,
      R"({"workers":[{"name":"w1","model":"tiny","engine":"PAGED","state":"READY","running":0,)"
      R"("waiting":0,"blocks_free":100,"blocks_cached":0,"blocks_total":100,)"
      R"("output_tokens_per_s":0.0,"address":"","dtype":"bf16","kv_cache":"",)"
      R"("kv_reserved_bytes":1099511627776,"kv_used_bytes":0,"numerics_id":"","why":""}]})"
      "\n");
  EXPECT_THAT(RunQuire({"load", "--target", server.target()}).out, HasSubstr("w1"));
}

TEST(LoadCommand, NoWorkersIsAnEmptyList) {
  FakeInference server;
  const QuireResult result = RunQuire({"load", "--target", server.target(), "--json"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, "{\"workers\":[]}\n");
}

TEST(ModelsCommand, PrintsModels) {
  FakeInference server;
  v1::Model* model = server.models().mutable_models(0);
  model->add_engines(v1::PAGED);
  model->add_engines(v1::BASELINE);
  const QuireResult result = RunQuire({"models", "--target", server.target(), "--json"});
  EXPECT_EQ(result.out,
            R"({"models":[{"id":"tiny","context_length":2048,"vocabulary_size":50,"dtypes":[],)"
            R"("engines":["PAGED","BASELINE"],"numerics_ids":[],"has_tokenizer":false,)"
            R"("has_chat_template":false}]})"
            "\n");
  EXPECT_THAT(RunQuire({"models", "--target", server.target()}).out, HasSubstr("PAGED,BASELINE"));
}

TEST(TokenizeCommand, PrintsIdsThatDetokenizeTakes) {
  FakeInference server;
  QuireResult result = RunQuire({"tokenize", "--target", server.target(), "--prompt", "hi"});
  EXPECT_EQ(result.out, "104,105\n");
  result = RunQuire({"tokenize", "--target", server.target(), "--prompt", "hi", "--json"});
  EXPECT_EQ(result.out, "{\"token_ids\":[104,105],\"tokens\":[\"h\",\"i\"]}\n");
  result = RunQuire({"detokenize", "--target", server.target(), "--token-ids", "104,105"});
  EXPECT_EQ(result.out, "hi\n");
}

TEST(CancelCommand, SaysWhetherTheRequestLived) {
  FakeInference server;
  const QuireResult result =
      RunQuire({"cancel", "--target", server.target(), "--request-id", "r1", "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "{\"found\":false}\n");
  EXPECT_THAT(server.cancelled(), ElementsAre("r1"));
}

TEST(CancelCommand, StopsATenantsRequestByItsName) {
  FakeInference server;
  server.set_token_time(std::chrono::milliseconds(1));
  QuireProcess owner({"generate", "--target", server.target(), "--prompt", "x", "--request-id",
                      "r1", "--tenant", "t", "--max-new-tokens", "1000000"});
  server.WaitForRequests(1);
  std::vector<std::string> cancel = {"cancel", "--target", server.target(), "r1"};
  EXPECT_EQ(RunQuire(cancel).out, "no living request r1\n");
  cancel.insert(cancel.end(), {"--tenant", "t"});
  EXPECT_EQ(RunQuire(cancel).out, "cancelled r1\n");
  EXPECT_NE(owner.Wait().exit_code, 0);
}

TEST(Verbs, AllKnowTheirVersion) {
  EXPECT_THAT(RunQuire({"--version"}).out, HasSubstr("quire 0."));
  EXPECT_THAT(RunQuire({"load", "--version"}).out, HasSubstr("quire 0."));
}

TEST(FieldsCommand, PrintsTheTableAsMarkdown) {
  const QuireResult result = RunQuire({"fields", "--markdown"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, HasSubstr("| `sampling.temperature` | 0 to 2"));
}

}  // namespace
}  // namespace quire
