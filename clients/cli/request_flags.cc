#include "clients/cli/request_flags.h"

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "clients/cli/chat_json.h"
#include "clients/cli/files.h"
#include "common/request_fields.h"

namespace quire {
namespace {

template <typename T>
T ValueOrThrow(const std::string& flag, absl::StatusOr<T> value) {
  if (!value.ok()) throw CLI::ValidationError(flag, std::string(value.status().message()));
  return *std::move(value);
}

std::vector<uint32_t> ParseIds(const std::string& flag, const std::string& text) {
  std::vector<uint32_t> ids;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    uint32_t id = 0;
    if (!absl::SimpleAtoi(part, &id)) {
      throw CLI::ValidationError(flag, absl::StrCat("\"", part, "\" is not a token id"));
    }
    ids.push_back(id);
  }
  return ids;
}

std::string HelpOf(const RequestField& field) {
  return absl::StrCat(std::string(field.help), ": ", std::string(field.allowed), " [",
                      std::string(field.default_value), "]");
}

}  // namespace

template <typename T>
CLI::Option* RequestFlags::Add(std::string_view path, std::function<void(const T&)> set) {
  if (except_->contains(path)) return nullptr;
  const RequestField& field = FieldAt(path);
  CLI::Option* option = app_->add_option_function<T>(absl::StrCat("--", std::string(field.flag)),
                                                     std::move(set), HelpOf(field));
  option->allow_extra_args(false);
  return option;
}

CLI::Option* RequestFlags::AddSwitch(std::string_view path, std::function<void(bool)> set) {
  if (except_->contains(path)) return nullptr;
  const RequestField& field = FieldAt(path);
  const std::string name(field.flag);
  return app_->add_flag_function(
      absl::StrCat("--", name, ",!--no-", name),
      [set = std::move(set)](int64_t count) { set(count > 0); }, HelpOf(field));
}

CLI::Option* RequestFlags::AddText(const std::string& flag, const std::string& help,
                                   std::function<void(const std::string&)> set) {
  CLI::Option* option = app_->add_option_function<std::string>(flag, std::move(set), help);
  option->allow_extra_args(false);
  return option;
}

void RequestFlags::Declare(CLI::App& app, const std::set<std::string_view>& except) {
  app_ = &app;
  except_ = &except;
  DeclareIdentity();
  DeclarePrompt();
  DeclareSampling();
  DeclareStop();
  DeclareLimits();
  except_ = nullptr;
}

void RequestFlags::DeclareIdentity() {
  Add<std::string>("request_id", [this](const auto& value) { request_.set_request_id(value); });
  Add<std::string>("model", [this](const auto& value) { request_.set_model(value); });
  CLI::Option* engine =
      Add<v1::Engine>("engine", [this](v1::Engine value) { request_.set_engine(value); });
  if (engine != nullptr) {
    const std::map<std::string, v1::Engine> engines = {
        {"paged", v1::PAGED}, {"baseline", v1::BASELINE}, {"hf-reference", v1::HF_REFERENCE}};
    engine->transform(CLI::CheckedTransformer(engines, CLI::ignore_case, [](std::string name) {
      for (char& c : name) c = c == '_' ? '-' : c;
      return name;
    }));
  }
  Add<std::string>("worker", [this](const auto& value) { request_.set_worker(value); });
  Add<std::string>("cache_salt", [this](const auto& value) { request_.set_cache_salt(value); });
  Add<std::string>("tenant", [this](const auto& value) { request_.set_tenant(value); });
}

void RequestFlags::DeclarePrompt() {
  if (!except_->contains("text")) {
    Add<std::string>("text", [this](const auto& value) { request_.set_text(value); });
    AddText("--prompt-file", "Prompt as the text of a file; - is standard input",
            [this](const std::string& path) {
              request_.set_text(ValueOrThrow("--prompt-file", ReadFile(path)));
            });
  }
  Add<std::string>("token_ids", [this](const auto& value) {
    const std::vector<uint32_t> ids = ParseIds("--token-ids", value);
    request_.mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
  });
  if (!except_->contains("chat.messages")) DeclareChat();
  AddSwitch("add_special_tokens", [this](bool value) { request_.set_add_special_tokens(value); });
  Add<std::vector<std::string>>("resume.choices", [this](const auto& choices) {
    for (const std::string& choice : choices) {
      const std::vector<uint32_t> ids = ParseIds("--resume-token-ids", choice);
      request_.mutable_resume()->add_choices()->mutable_emitted_token_ids()->Assign(ids.begin(),
                                                                                    ids.end());
    }
  });
}

void RequestFlags::DeclareChat() {
  Add<std::string>("chat.messages", [this](const auto& value) {
    const std::string json = ValueOrThrow("--chat", ReadArgument(value));
    if (absl::Status status = AddChatMessages(json, request_.mutable_chat()); !status.ok()) {
      throw CLI::ValidationError("--chat", std::string(status.message()));
    }
  });
  app_->add_option_function<std::vector<std::string>>(
          "--message",
          [this](const std::vector<std::string>& messages) {
            for (const std::string& text : messages) {
              const size_t equals = text.find('=');
              if (equals == std::string::npos) {
                throw CLI::ValidationError("--message", "ROLE=CONTENT is expected: " + text);
              }
              v1::ChatMessage* message = request_.mutable_chat()->add_messages();
              message->set_role(text.substr(0, equals));
              message->set_content(text.substr(equals + 1));
            }
          },
          "A chat message, ROLE=CONTENT; repeats")
      ->allow_extra_args(false);
  AddText("--tools", "JSON array of tools for the chat template, or @FILE",
          [this](const std::string& value) {
            request_.mutable_chat()->set_tools(ValueOrThrow("--tools", ReadArgument(value)));
          });
  AddText("--template-kwargs", "JSON object of further variables for the chat template, or @FILE",
          [this](const std::string& value) {
            request_.mutable_chat()->set_template_kwargs(
                ValueOrThrow("--template-kwargs", ReadArgument(value)));
          });
  app_->add_flag_function(
      "--add-generation-prompt,!--no-add-generation-prompt",
      [this](int64_t count) { request_.mutable_chat()->set_add_generation_prompt(count > 0); },
      "Whether the chat template opens the assistant's turn [true]");
}

void RequestFlags::DeclareSampling() {
  Add<float>("sampling.temperature",
             [this](float value) { request_.mutable_sampling()->set_temperature(value); });
  Add<uint32_t>("sampling.top_k",
                [this](uint32_t value) { request_.mutable_sampling()->set_top_k(value); });
  Add<float>("sampling.top_p",
             [this](float value) { request_.mutable_sampling()->set_top_p(value); });
  Add<float>("sampling.min_p",
             [this](float value) { request_.mutable_sampling()->set_min_p(value); });
  // 32 bits, as in JSON, whose readers often have no 64-bit integers.
  Add<uint32_t>("sampling.seed",
                [this](uint32_t value) { request_.mutable_sampling()->set_seed(value); });
  Add<uint32_t>("sampling.n",
                [this](uint32_t value) { request_.mutable_sampling()->set_n(value); });
  Add<float>("penalties.repetition",
             [this](float value) { request_.mutable_penalties()->set_repetition(value); });
  Add<float>("penalties.presence",
             [this](float value) { request_.mutable_penalties()->set_presence(value); });
  Add<float>("penalties.frequency",
             [this](float value) { request_.mutable_penalties()->set_frequency(value); });
  Add<std::vector<std::string>>("logit_bias", [this](const auto& entries) {
    for (const std::string& entry : entries) {
      for (absl::string_view part : absl::StrSplit(entry, ',', absl::SkipWhitespace())) {
        const std::pair<absl::string_view, absl::string_view> id_and_bias =
            absl::StrSplit(part, absl::MaxSplits(':', 1));
        uint32_t id = 0;
        float bias = 0;
        if (!absl::SimpleAtoi(id_and_bias.first, &id) ||
            !absl::SimpleAtof(id_and_bias.second, &bias)) {
          throw CLI::ValidationError("--logit-bias", absl::StrCat("ID:BIAS is expected: ", part));
        }
        (*request_.mutable_logit_bias())[id] = bias;
      }
    }
  });
}

void RequestFlags::DeclareStop() {
  Add<std::vector<std::string>>("stop.strings", [this](const auto& values) {
    for (const std::string& value : values) request_.mutable_stop()->add_strings(value);
  });
  Add<std::string>("stop.token_ids", [this](const auto& value) {
    const std::vector<uint32_t> ids = ParseIds("--stop-token-ids", value);
    request_.mutable_stop()->mutable_token_ids()->Assign(ids.begin(), ids.end());
  });
  AddSwitch("stop.ignore_eos",
            [this](bool value) { request_.mutable_stop()->set_ignore_eos(value); });
  AddSwitch("stop.include_stop_in_output",
            [this](bool value) { request_.mutable_stop()->set_include_stop_in_output(value); });
}

void RequestFlags::DeclareLimits() {
  Add<uint32_t>("max_new_tokens", [this](uint32_t value) { request_.set_max_new_tokens(value); });
  Add<uint32_t>("min_new_tokens", [this](uint32_t value) { request_.set_min_new_tokens(value); });
  Add<uint32_t>("logprobs", [this](uint32_t value) { request_.set_logprobs(value); });
  Add<uint32_t>("prompt_logprobs", [this](uint32_t value) { request_.set_prompt_logprobs(value); });
  Add<int32_t>("priority", [this](int32_t value) { request_.set_priority(value); });
  Add<uint32_t>("queue_timeout_ms",
                [this](uint32_t value) { request_.set_queue_timeout_ms(value); });
  Add<uint32_t>("timeout_ms", [this](uint32_t value) { request_.set_timeout_ms(value); });
}

}  // namespace quire
