#include "clients/cli/chat_json.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/json_depth.h"
#include "common/request_fields.h"

namespace quire {
namespace {

using Json = nlohmann::ordered_json;

absl::Status AddMessage(const Json& json, v1::Chat* chat) {
  if (!json.is_object()) return absl::InvalidArgumentError("is not an object");
  v1::ChatMessage* message = chat->add_messages();
  for (const auto& [key, value] : json.items()) {
    if (key == "tool_calls") {
      message->set_tool_calls(value.dump());
    } else if (!value.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat("has no text as \"", key, "\""));
    } else if (key == "role") {
      message->set_role(value.get<std::string>());
    } else if (key == "content") {
      message->set_content(value.get<std::string>());
    } else if (key == "name") {
      message->set_name(value.get<std::string>());
    } else {
      return absl::InvalidArgumentError(absl::StrCat("has the unknown key \"", key, "\""));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AddChatMessages(const std::string& json, v1::Chat* chat) {
  if (IsNestedDeeperThan(json, kMaxJsonDepth)) {
    return absl::InvalidArgumentError(
        absl::StrCat("JSON nested deeper than ", kMaxJsonDepth, " levels"));
  }
  const Json parsed = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_string()) {
    v1::ChatMessage* message = chat->add_messages();
    message->set_role("user");
    message->set_content(parsed.get<std::string>());
    return absl::OkStatus();
  }
  if (!parsed.is_array()) return absl::InvalidArgumentError("not a JSON array of messages");
  for (size_t i = 0; i < parsed.size(); ++i) {
    if (absl::Status status = AddMessage(parsed[i], chat); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("message ", i, " ", status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace quire
