#include "tests/fuzz/proto_input.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

namespace quire {
namespace {

class Quiet final : public google::protobuf::io::ErrorCollector {
  void AddError(int, google::protobuf::io::ColumnNumber, const std::string&) override {}
  void AddWarning(int, google::protobuf::io::ColumnNumber, const std::string&) override {}
};

}  // namespace

bool ReadInput(std::string_view text, google::protobuf::Message* message) {
  static const google::protobuf::LogSilencer silence;  // of the whole process
  Quiet quiet;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&quiet);
  parser.SetRecursionLimit(20);
  if (!parser.ParseFromString(std::string(text), message)) return false;
  const std::string bytes = message->SerializeAsString();
  return message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

}  // namespace quire
