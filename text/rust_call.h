#ifndef QUIRE_TEXT_RUST_CALL_H_
#define QUIRE_TEXT_RUST_CALL_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "text/rust/quire_text.h"
#include "text/tokenizer.h"

namespace quire {

// Takes what one call of the Rust library gives: its output, or its error message.
class RustOutput {
 public:
  RustOutput() = default;
  RustOutput(const RustOutput&) = delete;
  RustOutput& operator=(const RustOutput&) = delete;

  QuireTextSink sink() { return {this, &Put}; }
  std::string& bytes() { return bytes_; }
  // The call's outcome; takes the message.
  absl::Status ToStatus(QuireTextCode code);

 private:
  static void Put(void* self, const uint8_t* data, size_t size);

  std::string bytes_;
};

QuireTextBytes ToRust(std::string_view bytes);
// Borrows from `files`.
std::vector<QuireTextFile> ToRust(const TextFiles& files);

}  // namespace quire

#endif  // QUIRE_TEXT_RUST_CALL_H_
