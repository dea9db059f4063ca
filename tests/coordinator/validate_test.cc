#include "coordinator/rpc/validate.h"

#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>

#include <gtest/gtest.h>
#include "absl/strings/str_cat.h"
#include "common/request_fields.h"
#include "common/rpc_status.h"

namespace quire {
namespace {

constexpr ModelLimits kLimits{64, 1000};

std::shared_ptr<const ServedModel> Model(const std::string& generation_config = "{}") {
  return *ServedModel::Load("m",
                            {{"config.json", R"({"eos_token_id": [7, 2]})"},
                             {"generation_config.json", generation_config}},
                            {});
}

v1::GenerateRequest Good() {
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(1);
  return request;
}

// All the checks that a request passes on its way.
absl::Status Check(const v1::GenerateRequest& request) {
  const auto model = Model();
  if (absl::Status status = ValidateRequest(request); !status.ok()) return status;
  const auto prompt = MakePrompt(request, *model, kLimits);
  if (!prompt.ok()) return prompt.status();
  const auto parameters =
      ResolveParameters(request, "id", static_cast<uint32_t>(prompt->size()), *model, kLimits);
  if (!parameters.ok()) return parameters.status();
  return ValidateResume(ResumeOf(request), *parameters, kLimits);
}

// JSON of so many levels.
std::string Nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

using Change = std::function<void(v1::GenerateRequest&)>;

TEST(ValidateTest, EveryFieldOutOfItsRangeIsNamed) {
  const float nan = std::nanf("");
  const float infinity = std::numeric_limits<float>::infinity();
  using R = v1::GenerateRequest;
  const std::vector<std::pair<std::string, Change>> cases = {
      {"request_id", [](R& r) { r.set_request_id(std::string(129, 'x')); }},
      {"request_id", [](R& r) { r.set_request_id("a\nb"); }},
      {"tenant", [](R& r) { r.set_tenant(std::string(129, 'x')); }},
      {"cache_salt", [](R& r) { r.set_cache_salt("\x7f"); }},
      {"prompt", [](R& r) { r.clear_prompt(); }},
      {"text", [](R& r) { r.set_text(""); }},
      {"text", [](R& r) { r.set_text(std::string(kMaxPromptBytes + 1, 'x')); }},
      {"token_ids.ids", [](R& r) { r.mutable_token_ids()->clear_ids(); }},
      {"token_ids.ids[1]", [](R& r) { r.mutable_token_ids()->add_ids(1000); }},
      {"token_ids.ids",
       [](R& r) {
         for (int i = 0; i < 63; ++i) r.mutable_token_ids()->add_ids(1);
       }},
      {"chat.messages", [](R& r) { r.mutable_chat(); }},
      {"chat.messages[0].role", [](R& r) { r.mutable_chat()->add_messages()->set_content("x"); }},
      {"sampling.temperature", [](R& r) { r.mutable_sampling()->set_temperature(2.01f); }},
      {"sampling.temperature", [=](R& r) { r.mutable_sampling()->set_temperature(nan); }},
      {"sampling.temperature", [](R& r) { r.mutable_sampling()->set_temperature(-0.1f); }},
      {"sampling.top_k", [](R& r) { r.mutable_sampling()->set_top_k(1001); }},
      {"sampling.top_p", [](R& r) { r.mutable_sampling()->set_top_p(0); }},
      {"sampling.top_p", [](R& r) { r.mutable_sampling()->set_top_p(1.1f); }},
      {"sampling.min_p", [=](R& r) { r.mutable_sampling()->set_min_p(infinity); }},
      {"sampling.n", [](R& r) { r.mutable_sampling()->set_n(0); }},
      {"sampling.n", [](R& r) { r.mutable_sampling()->set_n(9); }},
      {"penalties.repetition", [](R& r) { r.mutable_penalties()->set_repetition(0); }},
      {"penalties.presence", [](R& r) { r.mutable_penalties()->set_presence(2.5f); }},
      {"penalties.frequency", [](R& r) { r.mutable_penalties()->set_frequency(-2.5f); }},
      {"logit_bias[3]", [](R& r) { (*r.mutable_logit_bias())[3] = 101; }},
      {"logit_bias[3]", [=](R& r) { (*r.mutable_logit_bias())[3] = nan; }},
      {"logit_bias", [](R& r) { (*r.mutable_logit_bias())[1000] = 1; }},
      {"logit_bias",
       [](R& r) {
         for (int i = 0; i < 1025; ++i) (*r.mutable_logit_bias())[i] = 1;
       }},
      {"stop.strings[0]", [](R& r) { r.mutable_stop()->add_strings(""); }},
      {"stop.strings[0]", [](R& r) { r.mutable_stop()->add_strings(std::string(257, 'x')); }},
      {"stop.strings",
       [](R& r) {
         for (int i = 0; i < 17; ++i) r.mutable_stop()->add_strings("x");
       }},
      {"stop.token_ids[0]", [](R& r) { r.mutable_stop()->add_token_ids(1000); }},
      {"stop.token_ids",
       [](R& r) {
         for (int i = 0; i < 65; ++i) r.mutable_stop()->add_token_ids(1);
       }},
      {"max_new_tokens", [](R& r) { r.set_max_new_tokens(0); }},
      {"max_new_tokens", [](R& r) { r.set_max_new_tokens(64); }},
      {"min_new_tokens",
       [](R& r) {
         r.set_max_new_tokens(5);
         r.set_min_new_tokens(6);
       }},
      {"logprobs", [](R& r) { r.set_logprobs(21); }},
      {"prompt_logprobs", [](R& r) { r.set_prompt_logprobs(21); }},
      {"priority", [](R& r) { r.set_priority(101); }},
      {"priority", [](R& r) { r.set_priority(-101); }},
      {"queue_timeout_ms", [](R& r) { r.set_queue_timeout_ms(0); }},
      {"timeout_ms", [](R& r) { r.set_timeout_ms(0); }},
      {"resume.choices",
       [](R& r) {
         r.mutable_resume()->add_choices();
         r.mutable_resume()->add_choices();
       }},
      {"resume.choices[0].emitted_token_ids[0]",
       [](R& r) { r.mutable_resume()->add_choices()->add_emitted_token_ids(1000); }},
      {"resume.choices[0].emitted_token_ids",
       [](R& r) {
         r.set_max_new_tokens(1);
         auto* choice = r.mutable_resume()->add_choices();
         choice->add_emitted_token_ids(1);
         choice->add_emitted_token_ids(1);
       }},
      {"resume.choices[1].emitted_token_ids",
       [](R& r) {
         r.mutable_sampling()->set_n(2);
         r.mutable_resume()->add_choices();
         auto* choice = r.mutable_resume()->add_choices();
         for (int i = 0; i < 64; ++i) choice->add_emitted_token_ids(1);
       }},
      {"chat.messages[1].tool_calls",
       [](R& r) {
         r.mutable_chat()->add_messages()->set_role("user");
         r.mutable_chat()->add_messages()->set_role("assistant");
         r.mutable_chat()->mutable_messages(1)->set_tool_calls(Nested(65));
       }},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    v1::GenerateRequest request = Good();
    cases[i].second(request);
    const absl::Status status = Check(request);
    EXPECT_TRUE(absl::IsInvalidArgument(status))
        << "case " << i << ", " << cases[i].first << ": " << status;
    EXPECT_EQ(FieldOf(status).value_or("none"), cases[i].first) << status;
  }
}

TEST(ValidateTest, TheEndsOfTheRangesAreAllowed) {
  const std::vector<Change> cases = {
      [](auto& r) { r.mutable_sampling()->set_temperature(0); },
      [](auto& r) { r.mutable_sampling()->set_temperature(2); },
      [](auto& r) { r.mutable_sampling()->set_top_k(1000); },
      [](auto& r) { r.mutable_sampling()->set_top_p(1); },
      [](auto& r) { r.mutable_sampling()->set_n(8); },
      [](auto& r) { r.mutable_penalties()->set_repetition(2); },
      [](auto& r) { (*r.mutable_logit_bias())[999] = -100; },
      [](auto& r) { r.set_max_new_tokens(63); },
      [](auto& r) { r.set_logprobs(0); },
      [](auto& r) { r.set_priority(-100); },
      [](auto& r) {
        for (int i = 0; i < 62; ++i) r.mutable_token_ids()->add_ids(999);
      },
      [](auto& r) { r.mutable_resume()->add_choices()->add_emitted_token_ids(999); },
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    v1::GenerateRequest request = Good();
    cases[i](request);
    EXPECT_TRUE(Check(request).ok()) << "case " << i << ": " << Check(request);
  }
}

TEST(ValidateTest, DeepJsonIsRefusedBeforeAnythingReadsIt) {
  for (const char* field : {"chat.messages[0].tool_calls", "chat.tools", "chat.template_kwargs"}) {
    for (const size_t depth : {size_t{64}, size_t{65}, size_t{500'000}}) {
      v1::GenerateRequest request;
      v1::ChatMessage* message = request.mutable_chat()->add_messages();
      message->set_role("user");
      const std::string path = field;
      if (path == "chat.tools") request.mutable_chat()->set_tools(Nested(depth));
      if (path == "chat.template_kwargs") {
        request.mutable_chat()->set_template_kwargs(Nested(depth));
      }
      if (path.ends_with("tool_calls")) message->set_tool_calls(Nested(depth));
      const absl::Status status = ValidateRequest(request);
      EXPECT_EQ(absl::IsInvalidArgument(status), depth > 64) << field << " of " << depth;
      if (depth > 64) {
        EXPECT_EQ(FieldOf(status).value_or("none"), field) << status;
      }
    }
  }
}

TEST(ValidateTest, WhatIsTooLongIsRefusedWithoutTheModel) {
  v1::GenerateRequest prompt;
  prompt.mutable_token_ids()->mutable_ids()->Resize(kMaxPromptTokens, 1);
  EXPECT_TRUE(ValidateRequest(prompt).ok());
  prompt.mutable_token_ids()->add_ids(1);
  EXPECT_EQ(FieldOf(ValidateRequest(prompt)), "token_ids.ids");

  v1::GenerateRequest request = Good();
  request.mutable_sampling()->set_n(2);
  for (int i = 0; i < 2; ++i) {
    auto* choice = request.mutable_resume()->add_choices();
    choice->mutable_emitted_token_ids()->Resize(kMaxResumeTokens / 2, 1);
  }
  EXPECT_TRUE(ValidateRequest(request).ok());
  request.set_max_new_tokens(kMaxResumeTokens / 2 - 1);
  EXPECT_EQ(FieldOf(ValidateRequest(request)), "resume.choices[0].emitted_token_ids");
  request.clear_max_new_tokens();
  request.mutable_resume()->mutable_choices(1)->add_emitted_token_ids(1);
  EXPECT_EQ(FieldOf(ValidateRequest(request)), "resume.choices");
  request.mutable_resume()->add_choices();
  EXPECT_EQ(FieldOf(ValidateRequest(request)), "resume.choices") << "more choices than n";
}

TEST(ValidateTest, TextNeedsATokenizer) {
  v1::GenerateRequest text = Good();
  text.set_text("hello");
  EXPECT_TRUE(absl::IsFailedPrecondition(Check(text)));
  EXPECT_EQ(FieldOf(Check(text)), "text");
  v1::GenerateRequest stop = Good();
  stop.mutable_stop()->add_strings("x");
  EXPECT_TRUE(absl::IsFailedPrecondition(Check(stop)));
  EXPECT_EQ(FieldOf(Check(stop)), "stop.strings");
}

TEST(ValidateTest, UnsetFieldsBecomeTheModelsDefaults) {
  const auto model = Model(R"({"temperature": 0.5, "top_k": 40, "eos_token_id": 9})");
  auto parameters = ResolveParameters(Good(), "id", 1, *model, kLimits);
  ASSERT_TRUE(parameters.ok());
  EXPECT_EQ(parameters->temperature(), 0.5f);
  EXPECT_EQ(parameters->top_k(), 40u);
  EXPECT_EQ(parameters->top_p(), 1.0f);
  EXPECT_EQ(parameters->max_new_tokens(), 63u);
  EXPECT_EQ(parameters->seed(), SeedOf("id"));
  const auto& stops = parameters->stop_token_ids();
  EXPECT_EQ(std::vector<uint32_t>(stops.begin(), stops.end()), (std::vector<uint32_t>{2, 7, 9}));
  v1::GenerateRequest ignoring = Good();
  ignoring.mutable_stop()->set_ignore_eos(true);
  ignoring.mutable_stop()->add_token_ids(5);
  parameters = ResolveParameters(ignoring, "id", 1, *model, kLimits);
  EXPECT_EQ(parameters->stop_token_ids_size(), 1);
  EXPECT_EQ(parameters->eos_token_ids_size(), 3);
}

TEST(ValidateTest, AResumedRequestKeepsTheLimitThatItHad) {
  const auto model = Model(R"({})");
  v1::GenerateRequest resumed = Good();
  resumed.mutable_resume()->set_max_new_tokens(20);
  EXPECT_EQ(ResolveParameters(resumed, "id", 1, *model, kLimits)->max_new_tokens(), 20u);
  EXPECT_EQ(Fingerprint(resumed), Fingerprint(Good()));
  // Workers with more room may come back.
  resumed.mutable_resume()->set_max_new_tokens(1000);
  const absl::Status status = ResolveParameters(resumed, "id", 1, *model, kLimits).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  resumed.set_max_new_tokens(30);
  EXPECT_EQ(ResolveParameters(resumed, "id", 1, *model, kLimits)->max_new_tokens(), 30u);
}

TEST(ValidateTest, FilesThatCannotBeUsedAreNamed) {
  const auto load = [](const std::string& config, const std::string& generation) {
    return ServedModel::Load("m", {{"config.json", config}, {"generation_config.json", generation}},
                             {})
        .status();
  };
  EXPECT_EQ(load("[]", "{}").message(), "config.json: is not a JSON object");
  EXPECT_EQ(load("{}", R"({"temperature": 3})").message(),
            "generation_config.json: temperature is 3; allowed: 0 to 2");
  EXPECT_EQ(load(R"({"eos_token_id": )" + Nested(100'000) + "}", "{}").message(),
            "config.json: is nested deeper than 64 levels");
  EXPECT_EQ(load(R"({"eos_token_id": "x"})", "{}").message(),
            "config.json: eos_token_id is neither a token id nor a list of them");
}

TEST(ValidateTest, TheFingerprintIsOfTheBodyAlone) {
  v1::GenerateRequest a = Good();
  v1::GenerateRequest b = Good();
  a.set_request_id("one");
  a.set_timeout_ms(5);
  b.mutable_resume()->add_choices()->add_emitted_token_ids(3);
  for (uint32_t id = 0; id < 100; ++id) (*a.mutable_logit_bias())[id] = 1;
  for (uint32_t id = 100; id-- > 0;) (*b.mutable_logit_bias())[id] = 1;
  EXPECT_EQ(Fingerprint(a), Fingerprint(b));
  b.mutable_sampling()->set_seed(0);
  EXPECT_NE(Fingerprint(a), Fingerprint(b));
}

TEST(RequestFieldsTest, EveryPathIsThereOnce) {
  for (const RequestField& field : RequestFields()) EXPECT_EQ(&FieldAt(field.path), &field);
}

TEST(RequestFieldsTest, TheManualShowsTheTable) {
  std::ifstream stream(QUIRE_API_PAGE);
  std::ostringstream page;
  page << stream.rdbuf();
  for (const RequestField& field : RequestFields()) {
    const std::string row =
        absl::StrCat("| `", std::string(field.path), "` | ", std::string(field.allowed), " | ",
                     std::string(field.default_value), " |\n");
    EXPECT_NE(page.str().find(row), std::string::npos) << "docs/api.md lacks " << row;
  }
}

}  // namespace
}  // namespace quire
