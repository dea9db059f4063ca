#include "clients/cpp/stream_progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/clients/fake_inference.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class StreamProgressTest : public ::testing::Test {
 protected:
  StreamProgressTest() { progress_.BeginConnection(); }

  void Accepted(const std::string& numerics_id = "numerics") {
    v1::GenerateEvent event = AcceptedEvent(request_);
    event.mutable_accepted()->set_numerics_id(numerics_id);
    event.mutable_accepted()->mutable_parameters()->set_max_new_tokens(77);
    status_ = progress_.Accept(&event).status();
  }
  // What is left of a delta.
  v1::Delta Delta(uint32_t first_index, const std::vector<uint32_t>& ids, const std::string& text) {
    v1::GenerateEvent event = DeltaEvent(0, first_index, ids, text);
    const auto is_new = progress_.Accept(&event);
    status_ = is_new.status();
    return is_new.ok() && *is_new ? event.delta() : v1::Delta();
  }
  bool Finished(v1::Finished::Reason reason, const std::string& text,
                v1::Finished* finished = nullptr) {
    v1::GenerateEvent event = FinishedEvent(0, reason, 0);
    event.mutable_finished()->set_text(text);
    const auto is_new = progress_.Accept(&event);
    status_ = is_new.status();
    if (finished != nullptr) *finished = event.finished();
    return is_new.ok() && *is_new;
  }

  v1::GenerateRequest request_;
  StreamProgress progress_{v1::Resume()};
  absl::Status status_;
};

TEST_F(StreamProgressTest, PassesAStreamThrough) {
  Accepted();
  EXPECT_EQ(progress_.resume().numerics_id(), "numerics");
  EXPECT_EQ(progress_.resume().max_new_tokens(), 77u);
  EXPECT_THAT(Delta(0, {5, 6}, "ab").token_ids(), ElementsAre(5, 6));
  EXPECT_EQ(Delta(2, {7}, "c").text(), "c");
  EXPECT_FALSE(progress_.complete());
  EXPECT_TRUE(Finished(v1::Finished::STOP, "d"));
  EXPECT_TRUE(progress_.complete());
  EXPECT_EQ(progress_.num_new_tokens(), 3);
}

TEST_F(StreamProgressTest, AGapOrARepeatWithinAConnectionIsDataLoss) {
  Accepted();
  Delta(0, {5, 6}, "");
  Delta(3, {8}, "");
  EXPECT_TRUE(absl::IsDataLoss(status_)) << status_;
  EXPECT_THAT(status_.message(), HasSubstr("token 3 where 2 was due"));
  Delta(1, {6}, "");
  EXPECT_TRUE(absl::IsDataLoss(status_)) << status_;
}

TEST_F(StreamProgressTest, AStreamBeginsWithAccepted) {
  Delta(0, {5}, "");
  EXPECT_TRUE(absl::IsDataLoss(status_)) << status_;
}

TEST_F(StreamProgressTest, GoesOnAfterWhatItHas) {
  Accepted();
  Delta(0, {5, 6}, "ab");
  ASSERT_EQ(progress_.resume().choices_size(), 1);
  EXPECT_THAT(progress_.resume().choices(0).emitted_token_ids(), ElementsAre(5, 6));
  progress_.BeginConnection();
  Accepted();
  const v1::Delta delta = Delta(2, {7}, "c");
  EXPECT_THAT(delta.token_ids(), ElementsAre(7));
  EXPECT_EQ(delta.text(), "c");
}

TEST_F(StreamProgressTest, DropsWhatARestartedStreamRepeats) {
  Accepted();
  Delta(0, {5, 6}, "ab");
  progress_.BeginConnection();
  Accepted();
  EXPECT_EQ(Delta(0, {5}, "a").token_ids_size(), 0);
  const v1::Delta delta = Delta(1, {6, 7}, "bc");
  EXPECT_EQ(delta.first_index(), 2);
  EXPECT_THAT(delta.token_ids(), ElementsAre(7));
  EXPECT_EQ(delta.text(), "c");
  v1::Finished finished;
  EXPECT_TRUE(Finished(v1::Finished::STOP, "d", &finished));
  EXPECT_EQ(finished.text(), "d");
}

TEST_F(StreamProgressTest, PromptLogProbabilitiesComeInPartsAndOnce) {
  const auto part = [this](uint32_t first, int count) {
    v1::GenerateEvent event = DeltaEvent(0, 0, {}, "");
    event.mutable_delta()->set_first_prompt_position(first);
    for (int i = 0; i < count; ++i) {
      event.mutable_delta()->add_prompt_logprobs()->set_logprob(-static_cast<float>(first + i));
    }
    const auto is_new = progress_.Accept(&event);
    status_ = is_new.status();
    return is_new.ok() && *is_new ? event.delta() : v1::Delta();
  };
  Accepted();
  EXPECT_EQ(part(1, 3).prompt_logprobs_size(), 3);
  EXPECT_EQ(part(4, 2).prompt_logprobs_size(), 2);
  progress_.BeginConnection();
  Accepted();
  EXPECT_EQ(part(1, 4).prompt_logprobs_size(), 0);
  const v1::Delta rest = part(5, 3);
  ASSERT_EQ(rest.prompt_logprobs_size(), 2);
  EXPECT_EQ(rest.first_prompt_position(), 6u);
  EXPECT_EQ(rest.prompt_logprobs(0).logprob(), -6);
  EXPECT_EQ(part(0, 3).prompt_logprobs_size(), 0);  // of an older server, which names no position
  part(9, 1);
  EXPECT_EQ(status_.code(), absl::StatusCode::kDataLoss) << status_;
}

TEST_F(StreamProgressTest, ADeliveredTokenNeverChanges) {
  Accepted();
  Delta(0, {5, 6}, "ab");
  progress_.BeginConnection();
  Accepted();
  Delta(0, {5, 9}, "ax");
  EXPECT_TRUE(absl::IsDataLoss(status_)) << status_;
  EXPECT_THAT(status_.message(), HasSubstr("was 6 and is now 9"));
}

TEST_F(StreamProgressTest, OtherNumericsAreRefused) {
  Accepted();
  Delta(0, {5}, "a");
  progress_.BeginConnection();
  Accepted("others");
  EXPECT_TRUE(absl::IsDataLoss(status_)) << status_;
}

TEST_F(StreamProgressTest, AnAbortedEndIsHeldBackAndForgottenWhenTheStreamGoesOn) {
  Accepted();
  Delta(0, {5}, "a");
  EXPECT_FALSE(Finished(v1::Finished::ABORTED, "tail"));
  progress_.BeginConnection();
  Accepted();
  EXPECT_EQ(Delta(1, {6}, "b").text(), "b");
  EXPECT_TRUE(Finished(v1::Finished::LENGTH, ""));
  EXPECT_TRUE(progress_.TakeAborted().empty());
}

TEST_F(StreamProgressTest, AnAbortedEndThatStaysIsTakenOnce) {
  Accepted();
  Finished(v1::Finished::ABORTED, "tail");
  EXPECT_EQ(progress_.TakeAborted().size(), 1);
  EXPECT_TRUE(progress_.TakeAborted().empty());
}

TEST_F(StreamProgressTest, RepeatedEndsAreDropped) {
  request_.mutable_sampling()->set_n(2);
  Accepted();
  Delta(0, {5}, "a");
  EXPECT_TRUE(Finished(v1::Finished::STOP, "z"));
  EXPECT_FALSE(progress_.complete());  // choice 1 is not
  progress_.BeginConnection();
  Accepted();
  EXPECT_FALSE(Finished(v1::Finished::STOP, "z"));
}

TEST(StreamProgress, TheRequestsOwnResumeCounts) {
  v1::Resume resume;
  resume.add_choices()->add_emitted_token_ids(5);
  StreamProgress progress(resume);
  progress.BeginConnection();
  v1::GenerateEvent event = AcceptedEvent(v1::GenerateRequest());
  ASSERT_TRUE(progress.Accept(&event).ok());
  event = DeltaEvent(0, 1, {6}, "b");
  ASSERT_TRUE(*progress.Accept(&event));
  EXPECT_THAT(progress.resume().choices(0).emitted_token_ids(), ElementsAre(5, 6));
  EXPECT_EQ(progress.num_new_tokens(), 1);
}

}  // namespace
}  // namespace quire
