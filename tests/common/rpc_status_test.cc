#include "common/rpc_status.h"

#include <gmock/gmock.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace quire {
namespace {

google::rpc::Status DetailsOf(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  return details;
}

TEST(RpcStatusTest, EveryCodeComesBack) {
  EXPECT_TRUE(FromGrpc(ToGrpc(absl::OkStatus())).ok());
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code),
                              "words of " + std::to_string(code));
    const grpc::Status sent = ToGrpc(status);
    EXPECT_EQ(static_cast<int>(sent.error_code()), code);
    EXPECT_EQ(FromGrpc(sent), status);
  }
}

TEST(RpcStatusTest, DetailsComeBack) {
  const absl::Status status = WithRetryDelay(
      WithField(absl::ResourceExhaustedError("the queue is full"), "sampling.n"), 1'250);
  const absl::Status back = FromGrpc(ToGrpc(status));
  EXPECT_EQ(back.message(), "the queue is full");
  EXPECT_EQ(FieldOf(back), "sampling.n");
  EXPECT_EQ(RetryDelayOf(back), 1'250u);
  EXPECT_EQ(FieldOf(FromGrpc(ToGrpc(absl::InternalError("x")))), std::nullopt);
  EXPECT_EQ(RetryDelayOf(FromGrpc(ToGrpc(absl::InternalError("x")))), std::nullopt);
}

TEST(RpcStatusTest, LongTextsAreCutBetweenCharacters) {
  std::string text = "x";  // so that the limit falls inside a character
  while (text.size() < 5000) text += "\u00e9";
  const grpc::Status sent = ToGrpc(WithField(absl::InvalidArgumentError(text), text));
  const absl::Status back = FromGrpc(sent);
  EXPECT_EQ(back.message(), text.substr(0, kMaxStatusMessageBytes - 1));
  EXPECT_EQ(FieldOf(back), text.substr(0, kMaxStatusFieldBytes - 1));
  // As trailers carry them: the message in percent-encoding, the details in base64.
  EXPECT_LT(3 * sent.error_message().size() + 4 * sent.error_details().size() / 3, 7'000u);
}

TEST(RpcStatusTest, SpeaksGoogleRpc) {
  const google::rpc::Status details = DetailsOf(
      ToGrpc(WithField(absl::InvalidArgumentError("temperature is 3"), "sampling.temperature")));
  EXPECT_EQ(details.code(), 3);
  ASSERT_EQ(details.details_size(), 2);
  google::rpc::BadRequest bad_request;
  ASSERT_TRUE(details.details(0).UnpackTo(&bad_request));
  EXPECT_EQ(bad_request.field_violations(0).field(), "sampling.temperature");
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.details(1).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "INVALID_ARGUMENT");
  EXPECT_EQ(info.domain(), "quire");
}

// Another server's details are input.
TEST(RpcStatusTest, TakesHostileDetails) {
  const grpc::Status garbage(grpc::StatusCode::UNAVAILABLE, "gone", "\xff\xfe not a message");
  EXPECT_EQ(FromGrpc(garbage), absl::UnavailableError("gone"));
  for (const int64_t seconds :
       {std::numeric_limits<int64_t>::min(), int64_t{-1}, std::numeric_limits<int64_t>::max()}) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(seconds);
    retry.mutable_retry_delay()->set_nanos(-7);
    google::rpc::Status details;
    details.add_details()->PackFrom(retry);
    const absl::Status back =
        FromGrpc(grpc::Status(grpc::StatusCode::UNAVAILABLE, "later", details.SerializeAsString()));
    EXPECT_EQ(RetryDelayOf(back), seconds < 0 ? 0u : kMaxRetryDelayMs);
  }
}

}  // namespace
}  // namespace quire
