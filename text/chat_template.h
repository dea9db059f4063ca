#ifndef QUIRE_TEXT_CHAT_TEMPLATE_H_
#define QUIRE_TEXT_CHAT_TEMPLATE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "text/rust_handle.h"
#include "text/tokenizer.h"

namespace quire {

// A model's chat template: Jinja, rendered as transformers' apply_chat_template(tokenize=False)
// does.
//
// The template comes from chat_template.jinja, else from tokenizer_config.json's chat_template (a
// string, or a list of which "tool_use" serves requests with tools and "default" the others). It
// sees messages, tools, documents (none), add_generation_prompt, the model's named special tokens
// (bos_token, eos_token ...) and the request's own variables, which win over the rest.
//
// Templates come with models and are not trusted: a render may take kMaxSteps template instructions
// and produce kMaxOutputBytes, and reaches no file, clock or network. What one instruction may take
// is not bounded: a template that doubles a string forty times exhausts the memory. Immutable and
// thread safe; each render runs on a thread of its own, for its stack.
class ChatTemplate {
 public:
  static constexpr uint64_t kMaxSteps = 1'000'000;
  static constexpr uint64_t kMaxOutputBytes = 8 << 20;

  // NOT_FOUND if the files hold no template; INVALID_ARGUMENT, naming file and line, if it cannot
  // be parsed.
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> Load(const TextFiles& files);

  struct Input {
    std::string messages;   // JSON array of objects with role, content ...
    std::string tools;      // JSON array; empty: none
    std::string variables;  // JSON object, the request's template_kwargs; empty: none
    bool add_generation_prompt = true;
    // What strftime_now() formats, as UTC. Unset: the template does not see strftime_now at all
    // (Llama's then falls back to a fixed date), so that the same request gives the same prompt on
    // any day.
    std::optional<int64_t> now_unix_seconds;
  };

  // INVALID_ARGUMENT: the input is not such JSON (naming the field), the template refuses it by
  // raise_exception (its message, with the line), or it fails otherwise; RESOURCE_EXHAUSTED: a
  // limit.
  absl::StatusOr<std::string> Render(const Input& input) const;

 private:
  explicit ChatTemplate(RustHandle<QuireTextTemplate> handle);

  RustHandle<QuireTextTemplate> handle_;
};

}  // namespace quire

#endif  // QUIRE_TEXT_CHAT_TEMPLATE_H_
