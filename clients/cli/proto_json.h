#ifndef QUIRE_CLIENTS_CLI_PROTO_JSON_H_
#define QUIRE_CLIENTS_CLI_PROTO_JSON_H_

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>

namespace quire {

// A message as JSON: the proto's own names in the order of its file, zeros and empty lists
// included, enumerations by name, every integer a number. Fields that tell "not set" from zero, and
// messages, are left out where they are not set.
nlohmann::ordered_json ToJson(const google::protobuf::Message& message);

// A float as the shortest decimal that reads back as it: 0.7, not 0.699999988.
double ShortestDouble(float value);

// One line, or indented; bytes that are not UTF-8 become U+FFFD.
std::string Print(const nlohmann::ordered_json& json, bool indented = false);

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_PROTO_JSON_H_
