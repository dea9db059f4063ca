#ifndef QUIRE_CLIENTS_CLI_CHAT_JSON_H_
#define QUIRE_CLIENTS_CLI_CHAT_JSON_H_

#include <quire/v1/inference.pb.h>

#include <string>

#include "absl/status/status.h"

namespace quire {

// Appends the messages of a JSON array of {"role", "content", "name", "tool_calls"}; a lone string
// is one message of the user. Says which message is wrong, and how.
absl::Status AddChatMessages(const std::string& json, v1::Chat* chat);

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_CHAT_JSON_H_
