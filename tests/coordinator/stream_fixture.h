#ifndef QUIRE_TESTS_COORDINATOR_STREAM_FIXTURE_H_
#define QUIRE_TESTS_COORDINATOR_STREAM_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "coordinator/stream/request_stream.h"
#include "tests/coordinator/in_process_cluster.h"
#include "tests/coordinator/test_client.h"

namespace quire {

inline ModelFiles TinyModelFiles() {
  ModelFiles files;
  for (const char* name :
       {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}) {
    std::ifstream stream(std::string(QUIRE_TINY_DIR) + "/" + name, std::ios::binary);
    std::ostringstream content;
    content << stream.rdbuf();
    files[name] = std::move(content).str();
  }
  return files;
}

// One model's files for all tests: reading a tokenizer takes a while under a sanitizer.
inline const ModelFiles& Files() {
  static const ModelFiles files = TinyModelFiles();
  return files;
}

// Requests on workers in this process, without gRPC.
class RequestStreamTest : public testing::Test {
 protected:
  explicit RequestStreamTest(const InProcessCoordinator::Options& options = {})
      : network_(Files()), coordinator_(&network_, options) {}

  void StartWorker(const std::string& address, InProcessWorker::Options options = {}) {
    options.name = address;
    network_.Start(address, options);
    coordinator_.registry().AddStatic(address);
    coordinator_.WaitUntilReady(++num_workers_);
  }

  // The worker is not heard any more: a test speaks for it. READY still, for a while.
  void Silence(const std::string& address) {
    network_.SetSilent(address, true);
    coordinator_.registry().Tick();
  }
  // What it has said meanwhile comes now.
  void Unsilence(const std::string& address) { network_.SetSilent(address, false); }

  PreparedRequest Prepared(uint32_t max_new_tokens, uint32_t n = 1) {
    PreparedRequest request;
    request.model = coordinator_.model();
    request.prompt = {100, 200, 300};
    request.parameters.set_max_new_tokens(max_new_tokens);
    request.parameters.set_n(n);
    request.parameters.set_top_p(1);
    request.parameters.set_repetition_penalty(1);
    return request;
  }

  struct Run {
    std::shared_ptr<RequestStream> stream;
    std::shared_ptr<TestClient> client;
  };
  Run Attach(const std::string& id, ResumeTokens resume = {},
             std::optional<int64_t> deadline = std::nullopt) {
    Run run;
    run.stream = coordinator_.MakeStream(id);
    run.client = std::make_shared<TestClient>(run.stream, resume);
    EXPECT_TRUE(run.stream->Attach(run.client, std::move(resume), deadline, "timeout_ms"));
    return run;
  }
  Run Start(const std::string& id, PreparedRequest request) {
    Run run = Attach(id, request.emitted);
    run.stream->Begin(std::move(request));
    return run;
  }

  // What the fake device makes of the prompt.
  static std::vector<uint32_t> Expected(uint32_t count, size_t skip = 0) {
    std::vector<uint32_t> tokens = {100, 200, 300};
    for (uint32_t i = 0; i < count; ++i) tokens.push_back(FakeExecutor::NextToken(tokens, 8192));
    return {tokens.begin() + 3 + skip, tokens.end()};
  }

  // Waits until the worker holds nothing.
  void ExpectIdle(const std::string& address) {
    const auto worker = network_.Worker(address);
    EXPECT_TRUE(worker->table().WaitUntilIdle(SteadyMicros() + 20'000'000));
    for (;;) {
      worker->table().Tick();
      const worker::v1::Load load = worker->table().load();
      if (load.running() == 0 && load.blocks_free() + load.blocks_cached() == load.blocks_total())
        break;
      coordinator_.WaitForTick();
    }
  }

  InProcessNetwork network_;
  InProcessCoordinator coordinator_;
  size_t num_workers_ = 0;
};

}  // namespace quire

#endif  // QUIRE_TESTS_COORDINATOR_STREAM_FIXTURE_H_
