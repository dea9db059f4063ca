#include "clients/cli/tokenize_command.h"

#include <cstdint>
#include <iostream>
#include <vector>

#include "absl/strings/str_join.h"
#include "clients/cli/files.h"
#include "clients/cli/proto_json.h"

namespace quire {

void TokenizeCommand::Declare(CLI::App& app) {
  connection_.Declare(app);
  const auto set_text = [this](const std::string& text) { request_.set_text(text); };
  CLI::Option* prompt = app.add_option_function<std::string>("--prompt,text", set_text, "The text");
  app.add_option_function<std::string>(
         "--prompt-file",
         [this](const std::string& path) {
           absl::StatusOr<std::string> text = ReadFile(path);
           if (!text.ok()) {
             throw CLI::ValidationError("--prompt-file", std::string(text.status().message()));
           }
           request_.set_text(*std::move(text));
         },
         "The text of a file; - is standard input")
      ->excludes(prompt);
  app.add_option_function<std::string>(
      "--model", [this](const std::string& model) { request_.set_model(model); },
      "Model whose tokenizer is used [the only one served]");
  app.add_flag_function(
      "--add-special-tokens,!--no-add-special-tokens",
      [this](int64_t count) { request_.set_add_special_tokens(count > 0); },
      "Whether the tokenizer adds its special tokens [true]");
  app.add_flag("--json", json_, "Print one JSON object, with each token's string");
}

absl::Status TokenizeCommand::Run() {
  const auto response = connection_.MakeClient()->Tokenize(request_, connection_.call_options());
  if (!response.ok()) return response.status();
  std::cout << (json_ ? Print(ToJson(*response)) : absl::StrJoin(response->token_ids(), ","))
            << "\n";
  return absl::OkStatus();
}

void DetokenizeCommand::Declare(CLI::App& app) {
  connection_.Declare(app);
  app.add_option_function<std::vector<uint32_t>>(
         "--token-ids,token_ids",
         [this](const std::vector<uint32_t>& ids) {
           request_.mutable_token_ids()->Assign(ids.begin(), ids.end());
         },
         "Token ids, separated by commas")
      ->delimiter(',');
  app.add_option_function<std::string>(
      "--model", [this](const std::string& model) { request_.set_model(model); },
      "Model whose tokenizer is used [the only one served]");
  app.add_flag_function(
      "--skip-special-tokens,!--no-skip-special-tokens",
      [this](int64_t count) { request_.set_skip_special_tokens(count > 0); },
      "Whether special tokens are left out of the text [true]");
  app.add_flag("--json", json_, "Print one JSON object");
}

absl::Status DetokenizeCommand::Run() {
  const auto response = connection_.MakeClient()->Detokenize(request_, connection_.call_options());
  if (!response.ok()) return response.status();
  std::cout << (json_ ? Print(ToJson(*response)) : response->text()) << "\n";
  return absl::OkStatus();
}

}  // namespace quire
