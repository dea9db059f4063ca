#include "worker/rpc/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "tests/worker/rpc/test_coordinator.h"

namespace quire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;
using worker::v1::Submit;

TEST(ConvertTest, CarriesEveryField) {
  Submit submit = MakeSubmit(17, {1, 2, 3}, 9);
  submit.set_attempt(4);
  submit.set_cache_salt("salt");
  submit.set_queue_timeout_ms(30);
  submit.add_emitted()->add_emitted_token_ids(7);
  submit.add_choice_finished(false);
  submit.add_choice_finished(true);
  v1::ResolvedParameters& parameters = *submit.mutable_parameters();
  parameters.set_temperature(0.5f);
  parameters.set_top_k(40);
  parameters.set_top_p(0.75f);
  parameters.set_min_p(0.125f);
  parameters.set_seed(1ull << 40);
  parameters.set_n(2);
  parameters.set_repetition_penalty(1.5f);
  parameters.set_presence_penalty(-1);
  parameters.set_frequency_penalty(2);
  for (const uint32_t id : {9, 4}) parameters.add_logit_bias_token_ids(id);
  for (const float bias : {1.0f, -2.0f}) parameters.add_logit_bias_values(bias);
  for (const uint32_t id : {8, 3, 8}) parameters.add_stop_token_ids(id);
  for (const uint32_t id : {6, 5}) parameters.add_eos_token_ids(id);
  parameters.set_min_new_tokens(2);
  parameters.set_logprobs(0);
  parameters.set_priority(-3);

  const absl::StatusOr<EngineRequest> request = ToEngineRequest(submit, 5, 1'000);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->key, (RequestKey{5, 17}));
  EXPECT_EQ(request->attempt, 4u);
  EXPECT_THAT(request->prompt, ElementsAre(1, 2, 3));
  EXPECT_THAT(request->emitted, ElementsAre(ElementsAre(7)));
  EXPECT_THAT(request->choice_finished, ElementsAre(false, true));
  EXPECT_EQ(request->n, 2u);
  EXPECT_EQ(request->max_new_tokens, 9u);
  EXPECT_EQ(request->priority, -3);
  EXPECT_EQ(request->cache_salt, "salt");
  EXPECT_EQ(request->queue_deadline, 31'000);
  const SamplingParams& params = request->params;
  EXPECT_EQ(params.temperature, 0.5f);
  EXPECT_EQ(params.top_k, 40u);
  EXPECT_EQ(params.top_p, 0.75f);
  EXPECT_EQ(params.min_p, 0.125f);
  EXPECT_EQ(params.seed, 1ull << 40);
  EXPECT_EQ(params.repetition_penalty, 1.5f);
  EXPECT_EQ(params.presence_penalty, -1);
  EXPECT_EQ(params.frequency_penalty, 2);
  EXPECT_THAT(params.logit_bias, ElementsAre(Pair(4, -2.0f), Pair(9, 1.0f)));
  EXPECT_THAT(params.stop_token_ids, ElementsAre(3, 8));
  EXPECT_THAT(params.eos_token_ids, ElementsAre(5, 6));
  EXPECT_EQ(params.min_new_tokens, 2u);
  EXPECT_EQ(params.logprobs, 0u);
  EXPECT_FALSE(params.prompt_logprobs.has_value());
}

// The range has no least value.
TEST(ConvertTest, TakesAnyRepetitionPenaltyAboveZero) {
  Submit submit = MakeSubmit(1, {1}, 4);
  for (const float repetition : {std::numeric_limits<float>::denorm_min(), 1e-7f, 2.0f}) {
    submit.mutable_parameters()->set_repetition_penalty(repetition);
    const absl::StatusOr<EngineRequest> request = ToEngineRequest(submit, 0, 0);
    ASSERT_TRUE(request.ok()) << request.status();
    EXPECT_EQ(request->params.repetition_penalty, repetition);
  }
}

struct BadSubmit {
  std::string field;
  std::function<void(Submit&, v1::ResolvedParameters&)> spoil;
};

class BadSubmitTest : public testing::TestWithParam<BadSubmit> {};

TEST_P(BadSubmitTest, NamesTheField) {
  Submit submit = MakeSubmit(1, {1}, 4);
  ASSERT_TRUE(ToEngineRequest(submit, 0, 0).ok());
  GetParam().spoil(submit, *submit.mutable_parameters());
  const absl::StatusOr<EngineRequest> request = ToEngineRequest(submit, 0, 0);
  EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(request.status().message(), HasSubstr(GetParam().field));
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

INSTANTIATE_TEST_SUITE_P(
    Fields, BadSubmitTest,
    testing::Values(
        BadSubmit{"temperature", [](Submit&, auto& p) { p.set_temperature(kNan); }},
        BadSubmit{"temperature", [](Submit&, auto& p) { p.set_temperature(-0.1f); }},
        BadSubmit{"top_p", [](Submit&, auto& p) { p.set_top_p(1.5f); }},
        BadSubmit{"min_p", [](Submit&, auto& p) { p.set_min_p(kInfinity); }},
        BadSubmit{"parameters.n", [](Submit&, auto& p) { p.set_n(0); }},
        BadSubmit{"parameters.n", [](Submit&, auto& p) { p.set_n(9); }},
        BadSubmit{"repetition_penalty", [](Submit&, auto& p) { p.set_repetition_penalty(0); }},
        BadSubmit{"repetition_penalty", [](Submit&, auto& p) { p.set_repetition_penalty(kNan); }},
        BadSubmit{"repetition_penalty", [](Submit&, auto& p) { p.set_repetition_penalty(2.1f); }},
        BadSubmit{"presence_penalty", [](Submit&, auto& p) { p.set_presence_penalty(-kInfinity); }},
        BadSubmit{"frequency_penalty", [](Submit&, auto& p) { p.set_frequency_penalty(2.5f); }},
        BadSubmit{"parameters.logprobs", [](Submit&, auto& p) { p.set_logprobs(21); }},
        BadSubmit{"prompt_logprobs", [](Submit&, auto& p) { p.set_prompt_logprobs(1000); }},
        BadSubmit{"max_new_tokens", [](Submit&, auto& p) { p.set_max_new_tokens(0); }},
        BadSubmit{"max_new_tokens", [](Submit&, auto& p) { p.set_max_new_tokens(~0u); }},
        BadSubmit{"stop_token_ids",
                  [](Submit&, auto& p) {
                    for (uint32_t id = 0; id < 5000; ++id) p.add_stop_token_ids(id);
                  }},
        BadSubmit{"eos_token_ids",
                  [](Submit&, auto& p) {
                    for (uint32_t id = 0; id < 5000; ++id) p.add_eos_token_ids(id);
                  }},
        BadSubmit{"logit_bias_token_ids",
                  [](Submit&, auto& p) {
                    for (uint32_t id = 0; id < 1025; ++id) p.add_logit_bias_token_ids(id);
                  }},
        BadSubmit{"logit_bias_values", [](Submit&, auto& p) { p.add_logit_bias_token_ids(1); }},
        BadSubmit{"logit_bias_token_ids",
                  [](Submit&, auto& p) {
                    for (int i = 0; i < 2; ++i) {
                      p.add_logit_bias_token_ids(7);
                      p.add_logit_bias_values(1);
                    }
                  }},
        BadSubmit{"logit_bias_values",
                  [](Submit&, auto& p) {
                    p.add_logit_bias_token_ids(1);
                    p.add_logit_bias_values(kNan);
                  }},
        BadSubmit{"emitted",
                  [](Submit& s, auto&) {
                    s.add_emitted();
                    s.add_emitted();
                  }},
        BadSubmit{"choice_finished", [](Submit& s, auto&) { s.add_choice_finished(true); }}),
    [](const auto& info) {
      std::string name = info.param.field + "_" + std::to_string(info.index);
      for (char& c : name) {
        if (c == '.') c = '_';
      }
      return name;
    });

TEST(ConvertTest, TellsHowAChoiceEnded) {
  ChoiceFinish finish;
  finish.key = {3, 17};
  finish.attempt = 2;
  finish.choice = 1;
  finish.reason = FinishReason::kStop;
  finish.stop_token = 0;
  finish.usage.prompt_tokens = 5;
  finish.usage.cached_tokens = 4;
  finish.usage.output_tokens = 6;
  finish.usage.recomputed_tokens = 7;
  finish.usage.kv_reserved_bytes = 64;
  finish.usage.kv_used_bytes = 44;
  finish.usage.kv_max_unused_tokens = 3;
  finish.timings.queued = 1'500;
  finish.timings.prefill = 2'000;
  finish.timings.decode = 250;
  const worker::v1::Finish proto = ToProto(finish);
  EXPECT_EQ(proto.key(), 17u);
  EXPECT_EQ(proto.attempt(), 2u);
  EXPECT_EQ(proto.choice(), 1u);
  EXPECT_EQ(proto.reason(), v1::Finished::STOP);
  EXPECT_TRUE(proto.has_stop_token_id());  // the token of id 0 is a token
  EXPECT_EQ(proto.status_code(), 0);
  EXPECT_EQ(proto.usage().prompt_tokens(), 5u);
  EXPECT_EQ(proto.usage().cached_tokens(), 4u);
  EXPECT_EQ(proto.usage().output_tokens(), 6u);
  EXPECT_EQ(proto.usage().recomputed_tokens(), 7u);
  EXPECT_EQ(proto.usage().kv().reserved_bytes(), 64u);
  EXPECT_EQ(proto.usage().kv().used_bytes(), 44u);
  EXPECT_EQ(proto.usage().kv().max_unused_tokens(), 3u);
  EXPECT_EQ(proto.timings().queued_ms(), 1.5);
  EXPECT_EQ(proto.timings().prefill_ms(), 2);
  EXPECT_EQ(proto.timings().decode_ms(), 0.25);

  finish.reason = FinishReason::kAborted;
  finish.stop_token.reset();
  finish.status = absl::InternalError("numbers");
  EXPECT_EQ(ToProto(finish).reason(), v1::Finished::ABORTED);
  EXPECT_EQ(ToProto(finish).status_code(), static_cast<int>(absl::StatusCode::kInternal));
  EXPECT_EQ(ToProto(finish).status_message(), "numbers");
  EXPECT_FALSE(ToProto(finish).has_stop_token_id());
}

TEST(ConvertTest, KeepsTheOrderOfAlternatives) {
  const v1::TokenLogprobs proto = ToProto(TokenLogprobs{-1.5f, {{4, -0.5f}, {2, -1.5f}}});
  EXPECT_EQ(proto.logprob(), -1.5f);
  ASSERT_EQ(proto.top_size(), 2);
  EXPECT_EQ(proto.top(0).token_id(), 4u);
  EXPECT_EQ(proto.top(1).token_id(), 2u);
  EXPECT_EQ(proto.top(1).logprob(), -1.5f);
}

}  // namespace
}  // namespace quire
