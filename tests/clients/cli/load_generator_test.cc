#include "clients/cli/load_generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "clients/cli/arrivals.h"
#include "common/clock.h"
#include "tests/clients/fake_inference.h"

namespace quire {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::SizeIs;

v1::GenerateRequest Make(size_t index) {
  v1::GenerateRequest request;
  request.set_request_id(absl::StrCat("r", index));
  request.set_text("x");
  request.set_max_new_tokens(3);
  return request;
}

TEST(LoadGenerator, RecordsEveryRequestInOrder) {
  FakeInference server;
  Client client({server.address()});
  LoadGenerator generator(&client, Make);
  LoadShape shape;
  shape.num_requests = 20;
  shape.max_in_flight = 4;
  const std::vector<RequestSample> records = generator.Run(shape);
  ASSERT_THAT(records, SizeIs(20));
  for (const RequestSample& record : records) {
    EXPECT_TRUE(record.status.ok()) << record.status;
    EXPECT_THAT(record.token_ids, ElementsAre(0, 1, 2));
    EXPECT_EQ(record.prompt_tokens, 3);
    EXPECT_EQ(record.output_tokens, 3);
    EXPECT_GE(record.first_token, record.sent);
    EXPECT_GE(record.last_token, record.first_token);
    EXPECT_THAT(record.gaps, SizeIs(2));
    EXPECT_EQ(record.usage.output_tokens(), 3);
  }
}

TEST(LoadGenerator, KeepsToItsBound) {
  FakeInference server;
  server.set_token_time(milliseconds(2));
  Client client({server.address()});
  LoadGenerator generator(&client, Make);
  LoadShape shape;
  shape.num_requests = 32;
  shape.max_in_flight = 8;
  generator.Run(shape);
  EXPECT_LE(server.max_running(), 8);
  EXPECT_GE(server.max_running(), 2);
}

TEST(LoadGenerator, AnOpenLoopSendsAtItsTimes) {
  FakeInference server;
  Client client({server.address()});
  LoadGenerator generator(&client, Make);
  LoadShape shape;
  shape.num_requests = 20;
  shape.request_rate = 200;
  const int64_t started = SteadyMicros();
  const std::vector<RequestSample> records = generator.Run(shape);
  PoissonArrivals arrivals(200, 0);
  for (const RequestSample& record : records) EXPECT_GE(record.sent, started + arrivals.Next());
}

TEST(LoadGenerator, BeginsNothingAfterItsBudgetButTheFirstOnes) {
  FakeInference server;
  server.set_token_time(milliseconds(5));
  Client client({server.address()});
  LoadGenerator generator(&client, Make);
  LoadShape shape;
  shape.num_requests = 100;
  shape.max_in_flight = 3;
  shape.begin_within = milliseconds(0);
  EXPECT_THAT(generator.Run(shape), SizeIs(3));
}

TEST(LoadGenerator, InterruptEndsWhatRuns) {
  FakeInference server;
  server.set_token_time(milliseconds(1));
  Client client({server.address()});
  LoadGenerator generator(&client, [](size_t index) {
    v1::GenerateRequest request = Make(index);
    request.set_max_new_tokens(1'000'000);
    return request;
  });
  LoadShape shape;
  shape.num_requests = 100;
  shape.max_in_flight = 4;
  std::thread interrupter([&] {
    server.WaitForRequests(4);
    generator.Interrupt();
  });
  const std::vector<RequestSample> records = generator.Run(shape);
  interrupter.join();
  EXPECT_THAT(records, SizeIs(4));
  for (const RequestSample& record : records) EXPECT_TRUE(absl::IsCancelled(record.status));
}

TEST(LoadGenerator, TellsOfItsProgress) {
  FakeInference server;
  server.set_token_time(milliseconds(1));
  Client client({server.address()});
  size_t num_calls = 0;
  LoadGenerator generator(&client, Make, {}, [&](const LoadGenerator::Progress&) { ++num_calls; });
  LoadShape shape;
  shape.num_requests = 4;
  shape.max_in_flight = 1;
  generator.Run(shape);
  EXPECT_GE(num_calls, 1);
}

}  // namespace
}  // namespace quire
