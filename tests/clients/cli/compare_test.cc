// `quire compare` as a process, against a fake coordinator with four workers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/clients/cli/run_quire.h"
#include "tests/clients/fake_inference.h"
#include "tests/worker/model/temp_folder.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

class CompareCommandTest : public ::testing::Test {
 protected:
  CompareCommandTest() {
    AddWorker("hf", v1::HF_REFERENCE, "dynamic", "fp32");
    AddWorker("base", v1::BASELINE, "static", "fp32");
    AddWorker("paged32", v1::PAGED, "", "fp32");
    AddWorker("paged16", v1::PAGED, "", "bf16");
  }
  void AddWorker(const std::string& name, v1::Engine engine, const std::string& kv_cache,
                 const std::string& dtype) {
    v1::WorkerLoad* worker = server_.load().add_workers();
    worker->set_name(name);
    worker->set_model("tiny");
    worker->set_engine(engine);
    worker->set_kv_cache(kv_cache);
    worker->set_dtype(dtype);
    worker->set_state(v1::WorkerLoad::READY);
  }
  QuireResult Compare(std::vector<std::string> flags = {}) {
    flags.insert(flags.begin(),
                 {"compare", "--target", server_.target(), "--new-tokens", "2,4", "--concurrency",
                  "2", "--concurrent-new-tokens", "4", "--requests", "1"});
    return RunQuire(flags);
  }
  Json CompareToJson(std::vector<std::string> flags = {}) {
    flags.push_back("--json");
    const QuireResult result = Compare(flags);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return Json::parse(result.out);
  }
  // `worker` makes another token at `index`. With `ties` log-probabilities have equal best ones.
  void Diverge(const std::string& worker, size_t index, bool ties = false) {
    server_.set_generate([this, worker, index, ties](grpc::ServerContext* context,
                                                     const v1::GenerateRequest& request,
                                                     FakeInference::Writer* writer) {
      const bool differs = request.worker() == worker;
      if (!differs && !(ties && request.has_logprobs())) {
        return server_.DefaultGenerate(context, request, writer);
      }
      std::vector<uint32_t> ids;
      for (uint32_t i = 0; i < request.max_new_tokens(); ++i) ids.push_back(FakeToken(0, i));
      if (differs && index < ids.size()) ids[index] = 999;
      v1::GenerateEvent event = DeltaEvent(0, 0, ids, "");
      for (size_t i = 0; request.has_logprobs() && i < ids.size(); ++i) {
        v1::TokenLogprobs* logprobs = event.mutable_delta()->add_logprobs();
        for (const float value : {-1.0f, -1.0f, -9.0f}) logprobs->add_top()->set_logprob(value);
      }
      writer->Write(AcceptedEvent(request, request.worker()));
      writer->Write(event);
      writer->Write(FinishedEvent(0, v1::Finished::LENGTH, ids.size()));
      return grpc::Status::OK;
    });
  }

  FakeInference server_;
};

TEST_F(CompareCommandTest, RowsAreEveryVariantAtEveryPoint) {
  const Json json = CompareToJson();
  std::vector<std::string> rows;
  for (const Json& row : json["rows"]) {
    rows.push_back(row["engine"].get<std::string>() + " " + row["dtype"].get<std::string>() + " " +
                   std::to_string(row["new_tokens"].get<int>()) + "x" +
                   std::to_string(row["concurrency"].get<int>()));
  }
  EXPECT_EQ(rows, (std::vector<std::string>{"hf fp32 2x1", "hf fp32 4x1", "hf fp32 4x2",
                                            "baseline-static fp32 2x1", "baseline-static fp32 4x1",
                                            "baseline-static fp32 4x2", "paged fp32 2x1",
                                            "paged fp32 4x1", "paged fp32 4x2", "paged bf16 2x1",
                                            "paged bf16 4x1", "paged bf16 4x2"}));
  EXPECT_EQ(json["model"], "tiny");
  EXPECT_EQ(json["versions"]["quire"], "9.9.9");
  EXPECT_EQ(json["workload"]["prompt_tokens"], 3);
  EXPECT_GT(json["machine"]["cores"], 0);
}

TEST_F(CompareCommandTest, ARowHasTheFieldsOfTheApi) {
  const Json row = CompareToJson()["rows"][8];  // paged fp32 4x2
  std::vector<std::string> names;
  for (const auto& [name, value] : row.items()) names.push_back(name);
  EXPECT_EQ(names,
            (std::vector<std::string>{
                "dtype", "engine", "worker", "new_tokens", "concurrency", "requests", "duration_s",
                "latency_s", "ttft_ms", "tpot_ms", "output_tokens_per_s", "kv_reserved_bytes",
                "kv_used_bytes", "max_unused_tokens", "tokens_equal", "tie", "first_difference"}));
  EXPECT_EQ(row["requests"], 4);
  EXPECT_GT(row["latency_s"]["p99"], 0);
  EXPECT_EQ(row["kv_reserved_bytes"], 2 * 4096);  // two hold it at once
  EXPECT_EQ(row["kv_used_bytes"], 2 * 4000);
  EXPECT_EQ(row["max_unused_tokens"], 15);
  EXPECT_EQ(row["tokens_equal"], true);
  EXPECT_EQ(row["tie"], false);
  EXPECT_TRUE(row["first_difference"].is_null());
}

TEST_F(CompareCommandTest, EnginesThatRunOneAtATimeHoldOneRequestsMemory) {
  EXPECT_EQ(CompareToJson()["rows"][5]["kv_reserved_bytes"], 4096);  // baseline-static 4x2
}

TEST_F(CompareCommandTest, OneWorkerAtATimeIsPinnedGreedyAndIgnoresEos) {
  CompareToJson();
  std::vector<std::string> order;
  for (const v1::GenerateRequest& request : server_.requests()) {
    EXPECT_EQ(request.text(), "hello");
    EXPECT_TRUE(request.sampling().has_temperature());
    EXPECT_EQ(request.sampling().temperature(), 0);
    EXPECT_TRUE(request.stop().ignore_eos());
    if (order.empty() || order.back() != request.worker()) order.push_back(request.worker());
  }
  EXPECT_EQ(order, (std::vector<std::string>{"hf", "base", "paged32", "paged16"}));
}

TEST_F(CompareCommandTest, OtherTokensInFp32AreNotEqual) {
  Diverge("paged32", 3);
  const Json rows = CompareToJson()["rows"];
  EXPECT_EQ(rows[6]["tokens_equal"], true);  // 2 tokens: not yet
  EXPECT_EQ(rows[7]["tokens_equal"], false);
  EXPECT_EQ(rows[7]["tie"], false);
  EXPECT_EQ(rows[7]["first_difference"], 3);
  // The reference was asked for its alternatives up to there, after all measurements.
  EXPECT_EQ(server_.requests().back().worker(), "hf");
  EXPECT_EQ(server_.requests().back().logprobs(), 20);
  EXPECT_EQ(server_.requests().back().max_new_tokens(), 4);
}

TEST_F(CompareCommandTest, ADifferenceAtATieIsEqual) {
  // The reference's two best tokens are equally likely everywhere.
  Diverge("paged32", 3, /*ties=*/true);
  const Json row = CompareToJson()["rows"][7];
  EXPECT_EQ(row["tokens_equal"], true);
  EXPECT_EQ(row["tie"], true);
  EXPECT_EQ(row["first_difference"], 3);
}

TEST_F(CompareCommandTest, OtherDtypesAreToldButNotJudged) {
  Diverge("paged16", 1);
  const Json row = CompareToJson()["rows"][9];
  EXPECT_TRUE(row["tokens_equal"].is_null());
  EXPECT_EQ(row["first_difference"], 1);
}

TEST_F(CompareCommandTest, WithoutTheReferenceNothingIsJudged) {
  const Json row = CompareToJson({"--engines", "paged"})["rows"][0];
  EXPECT_EQ(row["engine"], "paged");
  EXPECT_TRUE(row["tokens_equal"].is_null());
}

TEST_F(CompareCommandTest, WritesTheFileAndShowsATable) {
  const TempFolder folder;
  const std::string path = folder.path() + "/new/compare.json";
  const QuireResult result = Compare({"--output", path});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("equal to HF"));
  std::ifstream file(path);
  EXPECT_EQ(Json::parse(file)["rows"].size(), 12);
}

TEST_F(CompareCommandTest, AFailedRequestNamesItsRow) {
  server_.set_generate([this](grpc::ServerContext* context, const v1::GenerateRequest& request,
                              FakeInference::Writer* writer) {
    if (request.worker() == "base" && request.max_new_tokens() == 4) {
      return grpc::Status(grpc::StatusCode::INTERNAL, "out of luck");
    }
    return server_.DefaultGenerate(context, request, writer);
  });
  const QuireResult result = Compare();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err,
              HasSubstr("INTERNAL: baseline-static fp32, 4 new tokens, 1 at once: out of luck"));
}

TEST(CompareCommand, NoReadyWorkerIsAnError) {
  FakeInference server;
  EXPECT_EQ(RunQuire({"compare", "--target", server.target()}).exit_code, 1);
}

}  // namespace
}  // namespace quire
