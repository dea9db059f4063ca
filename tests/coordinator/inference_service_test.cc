#include "coordinator/rpc/inference_service.h"
#include "coordinator/rpc/generate_server.h"

#include <ctime>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include "common/rpc_status.h"
#include "tests/coordinator/in_process_cluster.h"

namespace quire {
namespace {

using testing::HasSubstr;

ModelFiles TinyModelFiles() {
  ModelFiles files;
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"}) {
    std::ifstream stream(std::string(QUIRE_TINY_DIR) + "/" + name, std::ios::binary);
    std::ostringstream content;
    content << stream.rdbuf();
    files[name] = std::move(content).str();
  }
  return files;
}

// The service over the transport of one process.
class InferenceServiceTest : public testing::Test {
 protected:
  struct Options {
    bool separate_tenants = false;
    size_t num_threads = 2;
    size_t max_open = 100;
    int64_t delivery_timeout = 60'000'000;
  };
  InferenceServiceTest() : InferenceServiceTest(Options()) {}
  explicit InferenceServiceTest(const Options& options)
      : options_(options),
        network_(TinyModelFiles()),
        coordinator_(&network_),
        pool_(options.num_threads, 1000),
        read_pool_(options.num_threads, 1000),
        streams_(options.max_open),
        service_(MakeContext()) {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    generate_server_ = std::make_unique<GenerateServer>(&service_, &builder, /*num_threads=*/2);
    server_ = builder.BuildAndStart();
    generate_server_->Start();
    grpc::ChannelArguments arguments;
    stub_ = v1::Inference::NewStub(server_->InProcessChannel(arguments));
  }
  ~InferenceServiceTest() override {
    server_->Shutdown();
    generate_server_.reset();
    read_pool_.Stop();
    pool_.Stop();
    coordinator_.Stop();
  }

  InferenceService::Context MakeContext() {
    InferenceService::Context context{&coordinator_.registry(),
                                      &coordinator_.placer(),
                                      &streams_,
                                      &pool_,
                                      &read_pool_,
                                      coordinator_.MakeContext(),
                                      nullptr};
    context.stream.on_end = [this](RequestStream& stream, const RequestRecord& record) {
      streams_.OnEnd(stream, record.status);
    };
    context.separate_tenants = options_.separate_tenants;
    context.delivery_timeout = options_.delivery_timeout;
    context.on_refused = [this](const RequestRecord& record) {
      MutexLock lock(mutex_);
      refused_.push_back(record);
    };
    return context;
  }
  void StartWorker(int64_t step_micros = 0) {
    StartWorker("a:1", {.name = "one", .step_micros = step_micros});
  }
  void StartWorker(const std::string& address, const InProcessWorker::Options& options) {
    network_.Start(address, options);
    coordinator_.registry().AddStatic(address);
    coordinator_.WaitUntilReady(1);
  }
  absl::Status Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    // Far more than any of this takes: a call that hangs fails.
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    const auto reader = stub_->Generate(&context, request);
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
    }
    return FromGrpc(reader->Finish());
  }
  static v1::GenerateRequest Request(const std::string& id) {
    v1::GenerateRequest request;
    request.set_request_id(id);
    request.mutable_token_ids()->add_ids(5);
    request.set_max_new_tokens(4);
    return request;
  }
  std::vector<RequestRecord> refused() {
    MutexLock lock(mutex_);
    return refused_;
  }

  // How many tokens of the same prompt a tenant finds in the cache.
  uint32_t CachedTokens(const std::string& tenant, const std::string& cache_salt) {
    v1::GenerateRequest request;
    request.set_tenant(tenant);
    request.set_cache_salt(cache_salt);
    for (uint32_t id = 1; id <= 32; ++id) request.mutable_token_ids()->add_ids(id);
    request.set_max_new_tokens(1);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    const auto reader = stub_->Generate(&context, request);
    uint32_t cached = 0;
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
      if (event.has_finished()) cached = event.finished().usage().cached_tokens();
    }
    const absl::Status status = FromGrpc(reader->Finish());
    EXPECT_TRUE(status.ok()) << status;
    return cached;
  }

  const Options options_;
  Mutex mutex_;
  std::vector<RequestRecord> refused_ QUIRE_GUARDED_BY(mutex_);
  InProcessNetwork network_;
  InProcessCoordinator coordinator_;
  WorkPool pool_;
  WorkPool read_pool_;
  StreamTable streams_;
  InferenceService service_;
  std::unique_ptr<GenerateServer> generate_server_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(InferenceServiceTest, ARequestBeginsThoughAnotherCallTakesItOverAtOnce) {
  // Without a worker a request ends as soon as it begins.
  for (int i = 0; i < 300; ++i) {
    const v1::GenerateRequest request = Request("r" + std::to_string(i));
    std::vector<std::thread> calls;
    for (int k = 0; k < 4; ++k) {
      calls.emplace_back([this, &request] {
        const absl::Status status = Generate(request);
        EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsAborted(status)) << status;
      });
    }
    for (std::thread& call : calls) call.join();
  }
}

TEST_F(InferenceServiceTest, WhatIsRefusedAtTheDoorIsReported) {
  v1::GenerateRequest request = Request("r");
  request.mutable_sampling()->set_temperature(3);
  EXPECT_TRUE(absl::IsInvalidArgument(Generate(request)));
  EXPECT_TRUE(absl::IsInvalidArgument(Generate(Request("a\nb"))));
  streams_.StartDraining();
  EXPECT_TRUE(absl::IsUnavailable(Generate(Request("s"))));
  const std::vector<RequestRecord> records = refused();
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].request_id, "r");
  EXPECT_TRUE(absl::IsInvalidArgument(records[0].status));
  EXPECT_EQ(records[1].request_id, "") << "no name that may hold anything";
  EXPECT_EQ(records[2].request_id, "s");
  EXPECT_TRUE(absl::IsUnavailable(records[2].status));
}

class SeparateTenantsTest : public InferenceServiceTest {
 protected:
  SeparateTenantsTest() : InferenceServiceTest({.separate_tenants = true}) {}
};

TEST_F(InferenceServiceTest, TenantsShareBlocks) {
  StartWorker();
  EXPECT_EQ(CachedTokens("a", ""), 0u);
  EXPECT_GT(CachedTokens("a", ""), 0u);
  EXPECT_GT(CachedTokens("b", ""), 0u);
  EXPECT_GT(CachedTokens("", ""), 0u);
  EXPECT_EQ(CachedTokens("a", "salt"), 0u);
  EXPECT_GT(CachedTokens("b", "salt"), 0u);
}

TEST_F(SeparateTenantsTest, ShareNoBlocks) {
  StartWorker();
  const std::pair<const char*, const char*> parties[] = {
      {"a", ""}, {"b", ""}, {"", ""}, {"", "a"}, {"a", "salt"}, {"b", "salt"}, {"as", "alt"}};
  for (const auto& [tenant, salt] : parties) {
    EXPECT_EQ(CachedTokens(tenant, salt), 0u) << tenant << ", " << salt;
    EXPECT_GT(CachedTokens(tenant, salt), 0u) << tenant << ", " << salt;
  }
}

TEST_F(InferenceServiceTest, AMadeIdIsRandom) {
  StartWorker();
  std::set<std::string> ids;
  for (int i = 0; i < 2; ++i) {
    grpc::ClientContext context;
    const auto reader = stub_->Generate(&context, Request(""));
    v1::GenerateEvent event;
    ASSERT_TRUE(reader->Read(&event));
    EXPECT_THAT(event.accepted().request_id(), testing::MatchesRegex("r-[0-9a-f]{32}"));
    ids.insert(event.accepted().request_id());
    while (reader->Read(&event)) {
    }
    EXPECT_TRUE(reader->Finish().ok());
  }
  EXPECT_EQ(ids.size(), 2u);
}

TEST_F(InferenceServiceTest, AnotherTenantNeitherCancelsNorTakesOver) {
  StartWorker(/*step_micros=*/100'000);
  const auto cancel = [this](const std::string& tenant) {
    grpc::ClientContext context;
    v1::CancelRequest request;
    request.set_request_id("owned");
    request.set_tenant(tenant);
    v1::CancelResponse response;
    EXPECT_TRUE(stub_->Cancel(&context, request, &response).ok());
    return response.found();
  };
  v1::GenerateRequest request = Request("owned");
  request.set_tenant("t");
  request.set_max_new_tokens(500);  // 50 s: it lives until it is cancelled
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  v1::GenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  for (const char* tenant : {"", "other"}) {
    EXPECT_FALSE(cancel(tenant)) << tenant;
    v1::GenerateRequest theirs = request;
    theirs.set_tenant(tenant);
    EXPECT_TRUE(absl::IsAlreadyExists(Generate(theirs))) << tenant;
    theirs.mutable_resume()->add_choices();
    EXPECT_TRUE(absl::IsAlreadyExists(Generate(theirs))) << tenant;
  }
  EXPECT_TRUE(cancel("t"));
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(absl::IsCancelled(FromGrpc(reader->Finish())));
}

TEST_F(InferenceServiceTest, WhatWaitingClientsHoldIsBounded) {
  v1::GenerateRequest request = Request("r");
  request.clear_max_new_tokens();
  request.mutable_resume()->add_choices()->mutable_emitted_token_ids()->Resize(1000, 1);
  {
    const auto all = streams_.HoldBytes("", StreamTable::kMaxHeldBytes);
    const absl::Status status = Generate(request);
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_TRUE(RetryDelayOf(status).has_value());
  }
  EXPECT_TRUE(absl::IsUnavailable(Generate(request))) << "there is no worker";
}

class WithoutPoolThreadsTest : public InferenceServiceTest {
 protected:
  WithoutPoolThreadsTest() : InferenceServiceTest({.num_threads = 0}) {}

  // Processor time that the test takes for the next piece of the pool's work.
  int64_t RunOneMicros() {
    const auto now = [] {
      timespec time{};
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
      return time.tv_sec * 1'000'000 + time.tv_nsec / 1000;
    };
    const int64_t began = now();
    while (!pool_.RunOne()) coordinator_.WaitForTick();
    return now() - began;
  }
};

TEST_F(WithoutPoolThreadsTest, ARequestThatHasEndedIsNotTokenized) {
  StartWorker();
  int64_t micros[2];
  for (const bool cancels : {false, true}) {
    v1::GenerateRequest request = Request(cancels ? "cancelled" : "waits");
    std::string text;  // more than the context, once tokenized
    while (text.size() < 500'000) text += "once upon a time ";
    request.set_text(text);
    std::thread call([&] {
      const absl::Status status = Generate(request);
      EXPECT_TRUE(cancels ? absl::IsCancelled(status) : absl::IsInvalidArgument(status)) << status;
    });
    while (!read_pool_.RunOne()) coordinator_.WaitForTick();
    if (cancels) streams_.FindLive("cancelled")->Cancel();
    micros[cancels] = RunOneMicros();
    call.join();
  }
  EXPECT_LT(micros[true], micros[false] / 2) << "microseconds";
}

TEST_F(WithoutPoolThreadsTest, ALargeRequestTimesOutThoughNothingTokenizesIt) {
  StartWorker();
  for (const bool queue : {false, true}) {
    v1::GenerateRequest request = Request(queue ? "queue" : "all");
    request.set_text(std::string(100'000, 'x'));
    queue ? request.set_queue_timeout_ms(1) : request.set_timeout_ms(1);
    std::thread call([&] {
      const absl::Status status = Generate(request);
      EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    });
    while (!read_pool_.RunOne()) coordinator_.WaitForTick();
    call.join();
  }
}

TEST_F(InferenceServiceTest, OneThatWasAcceptedElsewhereWaitsForRoom) {
  StartWorker("a:1", {.name = "one", .max_num_seqs = 1, .max_queue = 0, .step_micros = 50'000});
  std::thread first([this] {
    v1::GenerateRequest request = Request("first");
    request.set_max_new_tokens(400);  // 20 s
    const absl::Status status = Generate(request);
    EXPECT_TRUE(absl::IsCancelled(status)) << status;
  });
  while (coordinator_.registry().Views()[0].snapshot.load() == 0) coordinator_.WaitForTick();
  EXPECT_TRUE(absl::IsResourceExhausted(Generate(Request("new"))));
  std::thread accepted([this] {
    v1::GenerateRequest request = Request("accepted");  // and queued when its coordinator died
    request.mutable_resume()->set_numerics_id("fake");
    const absl::Status status = Generate(request);
    EXPECT_TRUE(status.ok()) << status;
  });
  while (streams_.FindLive("accepted") == nullptr) coordinator_.WaitForTick();
  for (int i = 0; i < 50; ++i) coordinator_.WaitForTick();  // most likely it was placed by now
  streams_.FindLive("first")->Cancel();
  accepted.join();
  first.join();
}

class SoonCutOffTest : public InferenceServiceTest {
 protected:
  SoonCutOffTest() : InferenceServiceTest({.max_open = 1, .delivery_timeout = 3'000'000}) {}
};

TEST_F(SoonCutOffTest, AClientThatDoesNotReadHoldsItsSlotForAWhile) {
  StartWorker();
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, Request("unread"));
  v1::GenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  // The others of a message each are not taken, and the request ends.
  while (streams_.num_live() > 0) coordinator_.WaitForTick();
  EXPECT_TRUE(streams_.WaitUntilRead(SteadyMicros() + 60'000'000));
  EXPECT_TRUE(Generate(Request("next")).ok());
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(absl::IsCancelled(FromGrpc(reader->Finish())));
}

TEST_F(InferenceServiceTest, OtherCallsCheckTheNameOfTheModelToo) {
  StartWorker();
  grpc::ClientContext tokenize;
  v1::TokenizeRequest text;
  text.set_model(std::string(3000, 'x'));
  text.set_text("hello");
  v1::TokenizeResponse ids;
  const absl::Status status = FromGrpc(stub_->Tokenize(&tokenize, text, &ids));
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(FieldOf(status), "model");
}

TEST_F(InferenceServiceTest, AnAnswerBeyondAMessageIsRefused) {
  StartWorker();
  const std::shared_ptr<const ServedModel> model = coordinator_.model();
  {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    request.set_text(std::string(1 << 20, '\x01'));  // a token a byte
    v1::TokenizeResponse response;
    const absl::Status status = FromGrpc(stub_->Tokenize(&context, request, &response));
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_EQ(FieldOf(status), "text");
    EXPECT_THAT(std::string(status.message()), HasSubstr("1048576 bytes"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("4194304 bytes"));
  }
  {
    // The id that gives the most text.
    uint32_t best = 0;
    size_t most = 0;
    for (uint32_t id = 0; id < 8192; ++id) {
      const size_t size = model->tokenizer()->Decode({&id, 1}, true)->size();
      if (size > most) best = id, most = size;
    }
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    for (size_t i = 0; i < kMaxPublicMessageBytes / most + 1; ++i) request.add_token_ids(best);
    v1::DetokenizeResponse response;
    const absl::Status status = FromGrpc(stub_->Detokenize(&context, request, &response));
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_EQ(FieldOf(status), "token_ids");
    EXPECT_THAT(std::string(status.message()), HasSubstr("4194304 bytes"));
  }
}

TEST_F(InferenceServiceTest, ALargeRequestIsServedAndRefusedAsASmallOneIs) {
  StartWorker();
  v1::GenerateRequest large = Request("large");
  large.mutable_resume()->add_choices();
  large.mutable_stop()->set_ignore_eos(true);
  const std::string padding(100'000, 'x');
  large.GetReflection()->MutableUnknownFields(&large)->AddLengthDelimited(1000, padding);
  EXPECT_TRUE(Generate(large).ok());
  large.set_request_id("large and wrong");
  large.mutable_sampling()->set_temperature(-1);
  EXPECT_TRUE(absl::IsInvalidArgument(Generate(large)));
  ASSERT_EQ(refused().size(), 1u);
  EXPECT_EQ(refused()[0].request_id, "large and wrong");
  EXPECT_TRUE(Generate(Request("small")).ok());
}

TEST_F(InferenceServiceTest, LargeRequestsOfClientsThatGoAwayLeaveNothing) {
  StartWorker();
  v1::GenerateRequest large = Request("");
  large.set_text(std::string(2'000'000, 'x'));
  large.clear_token_ids();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>>> readers;
  for (int i = 0; i < 40; ++i) {
    large.set_request_id(std::to_string(i));
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(stub_->Generate(contexts.back().get(), large));
    if (i % 2 == 0) contexts.back()->TryCancel();
  }
  for (const auto& context : contexts) context->TryCancel();
  for (const auto& reader : readers) EXPECT_FALSE(reader->Finish().ok());
  EXPECT_TRUE(Generate(Request("next")).ok());
}

}  // namespace
}  // namespace quire
