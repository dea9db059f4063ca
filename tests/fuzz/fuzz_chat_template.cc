// A chat template from chat_template.jinja or tokenizer_config.json, with messages, tools and
// variables. A render ends, within the limits of chat_template.h, and gives UTF-8; what is refused
// is refused with the file's or the field's name.
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/sections.h"
#include "text/chat_template.h"

namespace quire {

QUIRE_FUZZ_TARGET(chat_template, input) {
  TextFiles files;
  ChatTemplate::Input render = {
      .messages = R"([{"role": "user", "content": "hi"}])", .tools = "", .now_unix_seconds = 0};
  for (const auto& [name, content] : SplitSections(input)) {
    if (name == "messages") {
      render.messages = content;
    } else if (name == "tools") {
      render.tools = content;
    } else if (name == "variables") {
      render.variables = content;
    } else {
      files[name] = content;
    }
  }
  const auto chat = ChatTemplate::Load(files);
  if (!chat.ok()) {
    if (absl::IsNotFound(chat.status())) return;  // the files hold none
    CheckRefusal(chat.status(), {"chat_template", "tokenizer_config.json", "special_tokens_map"});
    return;
  }
  const auto rendered = (*chat)->Render(render);
  if (!rendered.ok()) {
    CheckRefusal(rendered.status(), {"chat_template", "messages", "tools", "variables",
                                     "template_kwargs", "tokenizer_config.json"});
    return;
  }
  QUIRE_FUZZ_CHECK(IsUtf8(*rendered) && rendered->size() <= ChatTemplate::kMaxOutputBytes,
                   std::to_string(rendered->size()));
}

}  // namespace quire
