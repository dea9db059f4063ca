#include "text/chat_template.h"

#include <utility>

#include "text/rust_call.h"

namespace quire {

ChatTemplate::ChatTemplate(RustHandle<QuireTextTemplate> handle) : handle_(std::move(handle)) {}

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::Load(const TextFiles& files) {
  const std::vector<QuireTextFile> rust_files = ToRust(files);
  QuireTextTemplate* handle = nullptr;
  RustOutput output;
  const absl::Status status = output.ToStatus(quire_text_template_load(
      rust_files.data(), rust_files.size(), kMaxSteps, kMaxOutputBytes, &handle, output.sink()));
  if (!status.ok()) return status;
  return std::shared_ptr<const ChatTemplate>(
      new ChatTemplate(RustHandle<QuireTextTemplate>(handle)));
}

absl::StatusOr<std::string> ChatTemplate::Render(const Input& input) const {
  RustOutput output;
  const absl::Status status = output.ToStatus(quire_text_template_render(
      handle_.get(), ToRust(input.messages), ToRust(input.tools), ToRust(input.variables),
      input.add_generation_prompt,
      input.now_unix_seconds.has_value() ? &*input.now_unix_seconds : nullptr, output.sink()));
  if (!status.ok()) return status;
  return std::move(output.bytes());
}

}  // namespace quire
