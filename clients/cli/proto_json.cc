#include "clients/cli/proto_json.h"

#include <google/protobuf/descriptor.h>

#include <charconv>
#include <cmath>
#include <string>

namespace quire {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Json = nlohmann::ordered_json;

// `get` and `get_repeated` are Reflection's readers of one type.
template <typename Get, typename GetRepeated>
Json Read(const Message& message, const FieldDescriptor* field, int index, Get get,
          GetRepeated get_repeated) {
  const Reflection* reflection = message.GetReflection();
  if (index < 0) return (reflection->*get)(message, field);
  return (reflection->*get_repeated)(message, field, index);
}

// A field's value, or one element of a repeated field.
Json ValueToJson(const Message& message, const FieldDescriptor* field, int index) {
  const Reflection* reflection = message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return Read(message, field, index, &Reflection::GetInt32, &Reflection::GetRepeatedInt32);
    case FieldDescriptor::CPPTYPE_INT64:
      return Read(message, field, index, &Reflection::GetInt64, &Reflection::GetRepeatedInt64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return Read(message, field, index, &Reflection::GetUInt32, &Reflection::GetRepeatedUInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return Read(message, field, index, &Reflection::GetUInt64, &Reflection::GetRepeatedUInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Read(message, field, index, &Reflection::GetDouble, &Reflection::GetRepeatedDouble);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return ShortestDouble(index < 0 ? reflection->GetFloat(message, field)
                                      : reflection->GetRepeatedFloat(message, field, index));
    case FieldDescriptor::CPPTYPE_BOOL:
      return Read(message, field, index, &Reflection::GetBool, &Reflection::GetRepeatedBool);
    case FieldDescriptor::CPPTYPE_STRING:
      return Read(message, field, index, &Reflection::GetString, &Reflection::GetRepeatedString);
    case FieldDescriptor::CPPTYPE_ENUM:
      return (index < 0 ? reflection->GetEnum(message, field)
                        : reflection->GetRepeatedEnum(message, field, index))
          ->name();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(index < 0 ? reflection->GetMessage(message, field)
                              : reflection->GetRepeatedMessage(message, field, index));
  }
  return nullptr;
}

}  // namespace

double ShortestDouble(float value) {
  if (!std::isfinite(value)) return value;
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  double result = 0;
  std::from_chars(text, end, result);
  return result;
}

Json ToJson(const Message& message) {
  Json json = Json::object();
  const google::protobuf::Descriptor* descriptor = message.GetDescriptor();
  const Reflection* reflection = message.GetReflection();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    if (field->is_repeated()) {
      Json& list = json[field->name()] = Json::array();
      for (int k = 0; k < reflection->FieldSize(message, field); ++k) {
        list.push_back(ValueToJson(message, field, k));
      }
    } else if (!field->has_presence() || reflection->HasField(message, field)) {
      json[field->name()] = ValueToJson(message, field, -1);
    }
  }
  return json;
}

std::string Print(const Json& json, bool indented) {
  return json.dump(indented ? 2 : -1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace quire
