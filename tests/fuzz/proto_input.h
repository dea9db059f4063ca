#ifndef QUIRE_TESTS_FUZZ_PROTO_INPUT_H_
#define QUIRE_TESTS_FUZZ_PROTO_INPUT_H_

#include <google/protobuf/message.h>

#include <memory>
#include <string>
#include <string_view>

// Inputs that are messages: written in protobuf's text format, so that a person can read a corpus,
// and given to the target through the wire format, as they come over the network.
namespace quire {

// Replaces `message` by what `text` holds. False: nothing that could come over the wire.
bool ReadInput(std::string_view text, google::protobuf::Message* message);

// What the target reads, empty. For the mutator: every target of this kind defines it.
#ifdef QUIRE_LIBFUZZER
std::unique_ptr<google::protobuf::Message> NewInput();
#define QUIRE_FUZZ_INPUT(Type)                                                               \
  std::unique_ptr<google::protobuf::Message> NewInput() { return std::make_unique<Type>(); } \
  static_assert(true)
#else
#define QUIRE_FUZZ_INPUT(Type) static_assert(true)
#endif

}  // namespace quire

#endif  // QUIRE_TESTS_FUZZ_PROTO_INPUT_H_
