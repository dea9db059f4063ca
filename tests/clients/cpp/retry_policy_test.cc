#include "clients/cpp/retry_policy.h"

#include <gtest/gtest.h>

#include "common/rpc_status.h"

namespace quire {
namespace {

using std::chrono::milliseconds;

const absl::Status kLost = absl::UnavailableError("lost");

TEST(RetryPolicy, OnlyUnavailableIsTriedAgain) {
  RetryPolicy policy({}, 3);
  EXPECT_FALSE(policy.AfterLoss(absl::ResourceExhaustedError("full"), 1).has_value());
  EXPECT_FALSE(policy.AfterLoss(absl::InternalError("bug"), 0).has_value());
  EXPECT_TRUE(policy.AfterLoss(kLost, 0).has_value());
}

TEST(StatusOfCall, CancelledIsTheServersWordOnlyWithDetails) {
  EXPECT_TRUE(absl::IsUnavailable(StatusOfCall({grpc::StatusCode::CANCELLED, "CANCELLED"})));
  EXPECT_TRUE(absl::IsCancelled(StatusOfCall(ToGrpc(absl::CancelledError("by a Cancel call")))));
  EXPECT_TRUE(absl::IsNotFound(StatusOfCall({grpc::StatusCode::NOT_FOUND, "no such method"})));
  EXPECT_TRUE(StatusOfCall(grpc::Status::OK).ok());
}

TEST(RetryPolicy, GoesRoundTheTargetsWithGrowingWaits) {
  RetryPolicy policy({.max_attempts = 4, .max_backoff = milliseconds(300)}, 2);
  for (const int wait : {0, 100, 0, 200, 0, 300, 0}) {
    EXPECT_EQ(policy.AfterLoss(kLost, 5), milliseconds(wait));
  }
  EXPECT_EQ(policy.AfterLoss(kLost, 5), std::nullopt);
}

TEST(RetryPolicy, OneAttemptIsOneAtEachTarget) {
  RetryPolicy policy({.max_attempts = 1}, 3);
  EXPECT_EQ(policy.AfterLoss(kLost, 0), milliseconds(0));
  EXPECT_EQ(policy.AfterLoss(kLost, 0), milliseconds(0));
  EXPECT_EQ(policy.AfterLoss(kLost, 0), std::nullopt);
}

TEST(RetryPolicy, ANewTokenStartsTheCountAgain) {
  RetryPolicy policy({.max_attempts = 2}, 1);
  EXPECT_TRUE(policy.AfterLoss(kLost, 5).has_value());
  EXPECT_TRUE(policy.AfterLoss(kLost, 6).has_value());
  EXPECT_FALSE(policy.AfterLoss(kLost, 6).has_value());
}

TEST(RetryPolicy, TheServersDelayHoldsUpToTheLimit) {
  RetryPolicy policy({}, 1);
  EXPECT_EQ(policy.AfterLoss(WithRetryDelay(kLost, 700), 1), milliseconds(700));
  EXPECT_EQ(policy.AfterLoss(WithRetryDelay(kLost, 60'000), 2), milliseconds(2000));
}

}  // namespace
}  // namespace quire
