#include "text/rust_call.h"

#include <utility>

#include "text/rust_handle.h"

namespace quire {

void RustDeleter::operator()(QuireTextTokenizer* object) const {
  quire_text_tokenizer_free(object);
}
void RustDeleter::operator()(QuireTextStream* object) const { quire_text_stream_free(object); }
void RustDeleter::operator()(QuireTextTemplate* object) const { quire_text_template_free(object); }

absl::Status RustOutput::ToStatus(QuireTextCode code) {
  switch (code) {
    case kQuireTextOk:
      return absl::OkStatus();
    case kQuireTextInvalidArgument:
      return absl::InvalidArgumentError(bytes_);
    case kQuireTextNotFound:
      return absl::NotFoundError(bytes_);
    case kQuireTextResourceExhausted:
      return absl::ResourceExhaustedError(bytes_);
    case kQuireTextInternal:
      break;
  }
  return absl::InternalError(bytes_);
}

void RustOutput::Put(void* self, const uint8_t* data, size_t size) {
  static_cast<RustOutput*>(self)->bytes_.assign(reinterpret_cast<const char*>(data), size);
}

QuireTextBytes ToRust(std::string_view bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

std::vector<QuireTextFile> ToRust(const TextFiles& files) {
  std::vector<QuireTextFile> result;
  result.reserve(files.size());
  for (const auto& [name, content] : files) result.push_back({ToRust(name), ToRust(content)});
  return result;
}

}  // namespace quire
