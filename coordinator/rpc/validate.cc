#include "coordinator/rpc/validate.h"

#include <algorithm>
#include <map>
#include <set>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <nlohmann/json.hpp>
#include "absl/strings/str_cat.h"
#include "common/json_depth.h"
#include "common/request_fields.h"
#include "common/rpc_status.h"
#include "common/sha256.h"
#include "coordinator/registry/served_names.h"

namespace quire {
namespace {

// The value's text in an error, shortened.
std::string Shown(const std::string& value) {
  constexpr size_t kMost = 64;
  return value.size() <= kMost ? absl::StrCat("\"", value, "\"")
                               : absl::StrCat(value.size(), " bytes");
}

absl::Status Wrong(absl::string_view field, absl::string_view value, absl::string_view allowed) {
  return WithField(
      absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; allowed: ", allowed)),
      field);
}

// Against the table's bounds.
absl::Status CheckNumber(absl::string_view path, double value) {
  const RequestField& field = FieldAt({path.data(), path.size()});
  if (field.Allows(value)) return absl::OkStatus();
  return Wrong(path, absl::StrCat(value), {field.allowed.data(), field.allowed.size()});
}

absl::Status CheckBytes(const char* path, size_t num_bytes) {
  if (num_bytes == 0) return Wrong(path, "empty", "at least one byte");
  if (num_bytes > kMaxPromptBytes) {
    return Wrong(path, absl::StrCat(num_bytes, " bytes"),
                 absl::StrCat("at most ", kMaxPromptBytes));
  }
  return absl::OkStatus();
}

absl::Status CheckJsonDepth(const std::string& path, const std::string& json) {
  if (!IsNestedDeeperThan(json, kMaxJsonDepth)) return absl::OkStatus();
  return Wrong(path, "JSON nested deeper", absl::StrCat("at most ", kMaxJsonDepth, " levels"));
}

absl::Status CheckChat(const v1::Chat& chat) {
  if (chat.messages().empty()) return Wrong("chat.messages", "empty", "at least one message");
  size_t num_bytes = chat.tools().size() + chat.template_kwargs().size();
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    const std::string path = absl::StrCat("chat.messages[", i, "]");
    if (message.role().empty()) {
      return Wrong(absl::StrCat(path, ".role"), "empty", "a role, such as user");
    }
    num_bytes += message.role().size() + message.content().size() + message.name().size() +
                 message.tool_calls().size();
    if (absl::Status s = CheckJsonDepth(absl::StrCat(path, ".tool_calls"), message.tool_calls());
        !s.ok()) {
      return s;
    }
  }
  if (absl::Status s = CheckJsonDepth("chat.tools", chat.tools()); !s.ok()) return s;
  if (absl::Status s = CheckJsonDepth("chat.template_kwargs", chat.template_kwargs()); !s.ok()) {
    return s;
  }
  return CheckBytes("chat.messages", num_bytes);
}

absl::Status CheckTokenIds(const v1::TokenIds& token_ids) {
  const auto num_ids = static_cast<size_t>(token_ids.ids_size());
  if (num_ids == 0) return Wrong("token_ids.ids", "empty", "at least one id");
  if (num_ids > kMaxPromptTokens) {
    return Wrong("token_ids.ids", absl::StrCat(num_ids, " ids"),
                 absl::StrCat("at most ", kMaxPromptTokens));
  }
  return absl::OkStatus();
}

absl::Status CheckPrompt(const v1::GenerateRequest& request) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      return CheckBytes("text", request.text().size());
    case v1::GenerateRequest::kTokenIds:
      return CheckTokenIds(request.token_ids());
    case v1::GenerateRequest::kChat:
      return CheckChat(request.chat());
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return Wrong("prompt", "not set", "text, token_ids or chat");
}

absl::Status CheckStop(const v1::Stop& stop) {
  if (static_cast<size_t>(stop.strings_size()) > kMaxStopStrings) {
    return Wrong("stop.strings", absl::StrCat(stop.strings_size(), " strings"),
                 absl::StrCat("at most ", kMaxStopStrings));
  }
  for (int i = 0; i < stop.strings_size(); ++i) {
    if (stop.strings(i).empty() || stop.strings(i).size() > kMaxStopStringBytes) {
      return Wrong(absl::StrCat("stop.strings[", i, "]"), Shown(stop.strings(i)),
                   absl::StrCat("1 to ", kMaxStopStringBytes, " bytes"));
    }
  }
  if (static_cast<size_t>(stop.token_ids_size()) > kMaxStopTokenIds) {
    return Wrong("stop.token_ids", absl::StrCat(stop.token_ids_size(), " ids"),
                 absl::StrCat("at most ", kMaxStopTokenIds));
  }
  return absl::OkStatus();
}

absl::Status CheckLogitBias(const v1::GenerateRequest& request) {
  if (request.logit_bias().size() > kMaxLogitBiases) {
    return Wrong("logit_bias", absl::StrCat(request.logit_bias().size(), " entries"),
                 absl::StrCat("at most ", kMaxLogitBiases));
  }
  const RequestField& field = FieldAt("logit_bias");
  for (const auto& [id, bias] : request.logit_bias()) {
    if (!field.Allows(bias)) {
      return Wrong(absl::StrCat("logit_bias[", id, "]"), absl::StrCat(bias),
                   absl::StrCat(field.min, " to ", field.max));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckNumbers(const v1::GenerateRequest& request) {
  const v1::Sampling& sampling = request.sampling();
  const v1::Penalties& penalties = request.penalties();
  const struct {
    const char* path;
    bool is_set;
    double value;
  } numbers[] = {
      {"sampling.temperature", sampling.has_temperature(), sampling.temperature()},
      {"sampling.top_p", sampling.has_top_p(), sampling.top_p()},
      {"sampling.min_p", sampling.has_min_p(), sampling.min_p()},
      {"sampling.n", sampling.has_n(), static_cast<double>(sampling.n())},
      {"penalties.repetition", penalties.has_repetition(), penalties.repetition()},
      {"penalties.presence", penalties.has_presence(), penalties.presence()},
      {"penalties.frequency", penalties.has_frequency(), penalties.frequency()},
      {"max_new_tokens", request.has_max_new_tokens(),
       static_cast<double>(request.max_new_tokens())},
      {"logprobs", request.has_logprobs(), static_cast<double>(request.logprobs())},
      {"prompt_logprobs", request.has_prompt_logprobs(),
       static_cast<double>(request.prompt_logprobs())},
      {"priority", request.has_priority(), static_cast<double>(request.priority())},
      {"queue_timeout_ms", request.has_queue_timeout_ms(),
       static_cast<double>(request.queue_timeout_ms())},
      {"timeout_ms", request.has_timeout_ms(), static_cast<double>(request.timeout_ms())},
  };
  for (const auto& number : numbers) {
    if (!number.is_set) continue;
    if (absl::Status status = CheckNumber(number.path, number.value); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// Before the model is known. Called when the numbers have been checked.
absl::Status CheckResume(const v1::GenerateRequest& request) {
  const auto& choices = request.resume().choices();
  const uint32_t n = request.sampling().has_n() ? request.sampling().n() : 1;
  if (static_cast<uint32_t>(choices.size()) > n) {
    return Wrong("resume.choices", absl::StrCat(choices.size(), " entries"),
                 absl::StrCat("at most n, ", n));
  }
  size_t num_tokens = 0;
  for (int i = 0; i < choices.size(); ++i) {
    const auto num_own = static_cast<uint32_t>(choices.Get(i).emitted_token_ids_size());
    num_tokens += num_own;
    if (request.has_max_new_tokens() && num_own > request.max_new_tokens()) {
      return Wrong(absl::StrCat("resume.choices[", i, "].emitted_token_ids"),
                   absl::StrCat(num_own, " tokens"),
                   absl::StrCat("at most max_new_tokens, ", request.max_new_tokens()));
    }
  }
  if (num_tokens > kMaxResumeTokens) {
    return Wrong("resume.choices", absl::StrCat(num_tokens, " tokens"),
                 absl::StrCat("at most ", kMaxResumeTokens));
  }
  return absl::OkStatus();
}

absl::Status NeedsTokenizer(const char* field, const ServedModel& model, const char* what) {
  return WithField(absl::FailedPreconditionError(
                       absl::StrCat(field, ": the model ", model.name(), " has no ", what)),
                   field);
}

// A JSON array of the messages, as chat templates expect them. `tool_calls` is JSON already.
absl::StatusOr<std::string> MessagesJson(const v1::Chat& chat) {
  using Json = nlohmann::ordered_json;
  Json messages = Json::array();
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    Json json = {{"role", message.role()}, {"content", message.content()}};
    if (!message.name().empty()) json["name"] = message.name();
    if (!message.tool_calls().empty()) {
      Json calls = Json::parse(message.tool_calls(), nullptr, /*allow_exceptions=*/false);
      if (!calls.is_array()) {
        return Wrong(absl::StrCat("chat.messages[", i, "].tool_calls"), Shown(message.tool_calls()),
                     "a JSON array");
      }
      json["tool_calls"] = std::move(calls);
    }
    messages.push_back(std::move(json));
  }
  return messages.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

absl::Status ValidateName(const std::string& value, const char* field) {
  const bool printable =
      std::all_of(value.begin(), value.end(), [](char c) { return c >= ' ' && c <= '~'; });
  if (printable && value.size() <= kMaxNameBytes) return absl::OkStatus();
  return Wrong(field, printable ? Shown(value) : "text with other bytes",
               absl::StrCat("at most ", kMaxNameBytes, " printable ASCII bytes"));
}

absl::Status ValidateTokenIds(absl::string_view path, absl::Span<const uint32_t> ids,
                              uint32_t vocabulary) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < vocabulary) continue;
    return Wrong(absl::StrCat(path, "[", i, "]"), absl::StrCat(ids[i]),
                 absl::StrCat("token ids below the vocabulary's size, ", vocabulary));
  }
  return absl::OkStatus();
}

absl::Status ValidateRequest(const v1::GenerateRequest& request) {
  if (absl::Status s = ValidateName(request.request_id(), "request_id"); !s.ok()) return s;
  if (absl::Status s = ValidateName(request.model(), "model"); !s.ok()) return s;
  if (absl::Status s = ValidateName(request.worker(), "worker"); !s.ok()) return s;
  if (absl::Status s = ValidateName(request.resume().numerics_id(), "resume.numerics_id");
      !s.ok()) {
    return s;
  }
  if (absl::Status s = ValidateName(request.cache_salt(), "cache_salt"); !s.ok()) return s;
  if (absl::Status s = ValidateName(request.tenant(), "tenant"); !s.ok()) return s;
  if (!v1::Engine_IsValid(request.engine())) {
    return WithField(
        absl::NotFoundError(absl::StrCat("there is no engine ", static_cast<int>(request.engine()),
                                         "; there is: PAGED, BASELINE, HF_REFERENCE")),
        "engine");
  }
  if (absl::Status s = CheckPrompt(request); !s.ok()) return s;
  if (absl::Status s = CheckNumbers(request); !s.ok()) return s;
  if (absl::Status s = CheckResume(request); !s.ok()) return s;
  if (absl::Status s = CheckStop(request.stop()); !s.ok()) return s;
  return CheckLogitBias(request);
}

absl::StatusOr<std::vector<uint32_t>> MakePrompt(const v1::GenerateRequest& request,
                                                 const ServedModel& model,
                                                 const ModelLimits& limits) {
  std::vector<uint32_t> prompt;
  const char* field = "token_ids.ids";
  if (request.has_token_ids()) {
    const auto& ids = request.token_ids().ids();
    if (static_cast<uint32_t>(ids.size()) < limits.context_length) {
      if (absl::Status s = ValidateTokenIds(field, ids, limits.vocabulary_size); !s.ok()) return s;
    }
    prompt.assign(ids.begin(), ids.end());
  } else {
    field = request.has_text() ? "text" : "chat.messages";
    if (model.tokenizer() == nullptr) return NeedsTokenizer(field, model, "tokenizer");
    std::string text = request.text();
    bool add_special_tokens = true;
    if (request.has_chat()) {
      if (model.chat_template() == nullptr) return NeedsTokenizer("chat", model, "chat template");
      auto messages = MessagesJson(request.chat());
      if (!messages.ok()) return messages.status();
      ChatTemplate::Input input;
      input.messages = *std::move(messages);
      input.tools = request.chat().tools();
      input.variables = request.chat().template_kwargs();
      if (request.chat().has_add_generation_prompt()) {
        input.add_generation_prompt = request.chat().add_generation_prompt();
      }
      auto rendered = model.chat_template()->Render(input);
      if (!rendered.ok()) {
        return WithField(
            absl::InvalidArgumentError(absl::StrCat("chat: ", rendered.status().message())),
            "chat");
      }
      text = *std::move(rendered);
      add_special_tokens = false;
    }
    if (request.has_add_special_tokens()) add_special_tokens = request.add_special_tokens();
    auto ids = model.tokenizer()->Encode(text, add_special_tokens);
    if (!ids.ok()) {
      return WithField(
          absl::InvalidArgumentError(absl::StrCat(field, ": ", ids.status().message())), field);
    }
    prompt = *std::move(ids);
    if (prompt.empty()) return Wrong(field, "empty once tokenized", "at least one token");
    for (const uint32_t id : prompt) {
      if (id < limits.vocabulary_size) continue;
      return WithField(absl::FailedPreconditionError(absl::StrCat(
                           field, ": the tokenizer made token id ", id,
                           ", beyond the model's vocabulary of ", limits.vocabulary_size)),
                       field);
    }
  }
  if (prompt.size() >= limits.context_length) {
    return Wrong(field, absl::StrCat(prompt.size(), " tokens"),
                 absl::StrCat("at most ", limits.context_length - 1, ", the context of ",
                              limits.context_length, " less one"));
  }
  return prompt;
}

absl::StatusOr<v1::ResolvedParameters> ResolveParameters(const v1::GenerateRequest& request,
                                                         const std::string& request_id,
                                                         uint32_t prompt_tokens,
                                                         const ServedModel& model,
                                                         const ModelLimits& limits) {
  const v1::Sampling& sampling = request.sampling();
  const v1::Penalties& penalties = request.penalties();
  const GenerationDefaults& defaults = model.defaults();
  v1::ResolvedParameters p;
  p.set_temperature(sampling.has_temperature() ? sampling.temperature() : defaults.temperature);
  if (sampling.has_top_k() && sampling.top_k() > limits.vocabulary_size) {
    return Wrong("sampling.top_k", absl::StrCat(sampling.top_k()),
                 absl::StrCat("0 (off) to the vocabulary's size, ", limits.vocabulary_size));
  }
  p.set_top_k(sampling.has_top_k() ? sampling.top_k()
                                   : std::min(defaults.top_k, limits.vocabulary_size));
  p.set_top_p(sampling.has_top_p() ? sampling.top_p() : defaults.top_p);
  p.set_min_p(sampling.has_min_p() ? sampling.min_p() : defaults.min_p);
  p.set_seed(sampling.has_seed() ? sampling.seed() : SeedOf(request_id));
  p.set_n(sampling.has_n() ? sampling.n() : 1);
  p.set_repetition_penalty(penalties.has_repetition() ? penalties.repetition() : 1);
  p.set_presence_penalty(penalties.presence());
  p.set_frequency_penalty(penalties.frequency());

  const std::map<uint32_t, float> biases(request.logit_bias().begin(), request.logit_bias().end());
  for (const auto& [id, bias] : biases) {
    if (id >= limits.vocabulary_size) {
      return Wrong("logit_bias", absl::StrCat("for token id ", id),
                   absl::StrCat("token ids below the vocabulary's size, ", limits.vocabulary_size));
    }
    p.add_logit_bias_token_ids(id);
    p.add_logit_bias_values(bias);
  }

  if (request.stop().strings_size() > 0 && model.tokenizer() == nullptr) {
    return NeedsTokenizer("stop.strings", model, "tokenizer");
  }
  *p.mutable_stop_strings() = request.stop().strings();
  p.set_include_stop_in_output(request.stop().include_stop_in_output());
  if (absl::Status s =
          ValidateTokenIds("stop.token_ids", request.stop().token_ids(), limits.vocabulary_size);
      !s.ok()) {
    return s;
  }
  std::set<uint32_t> stop_ids(request.stop().token_ids().begin(), request.stop().token_ids().end());
  for (const uint32_t id : model.eos_token_ids()) {
    p.add_eos_token_ids(id);
    if (!request.stop().ignore_eos()) stop_ids.insert(id);
  }
  p.mutable_stop_token_ids()->Add(stop_ids.begin(), stop_ids.end());

  const uint32_t room = limits.context_length - prompt_tokens;
  if (request.has_max_new_tokens() && request.max_new_tokens() > room) {
    return WithField(absl::InvalidArgumentError(absl::StrCat(
                         "prompt (", prompt_tokens, " tokens) + max_new_tokens (",
                         request.max_new_tokens(), ") is past the context of ",
                         limits.context_length, "; max_new_tokens allowed: 1 to ", room)),
                     "max_new_tokens");
  }
  const uint32_t had = request.resume().max_new_tokens();
  if (!request.has_max_new_tokens() && had > room) {
    return WithRetryDelay(absl::UnavailableError(absl::StrCat(
                              "the request has run with ", had,
                              " new tokens; the workers known now have room for ", room)),
                          kRetryDelayMs);
  }
  const uint32_t otherwise = had > 0 ? had : room;
  p.set_max_new_tokens(request.has_max_new_tokens() ? request.max_new_tokens() : otherwise);
  if (request.min_new_tokens() > p.max_new_tokens()) {
    return Wrong("min_new_tokens", absl::StrCat(request.min_new_tokens()),
                 absl::StrCat("0 to max_new_tokens, ", p.max_new_tokens()));
  }
  p.set_min_new_tokens(request.min_new_tokens());
  if (request.has_logprobs()) p.set_logprobs(request.logprobs());
  if (request.has_prompt_logprobs()) p.set_prompt_logprobs(request.prompt_logprobs());
  p.set_priority(request.priority());
  return p;
}

absl::Status ValidateResume(const ResumeTokens& resume, const v1::ResolvedParameters& parameters,
                            const ModelLimits& limits) {
  for (size_t i = 0; i < resume.size(); ++i) {
    const std::string path = absl::StrCat("resume.choices[", i, "].emitted_token_ids");
    if (resume[i].size() > parameters.max_new_tokens()) {
      return Wrong(path, absl::StrCat(resume[i].size(), " tokens"),
                   absl::StrCat("at most max_new_tokens, ", parameters.max_new_tokens()));
    }
    if (absl::Status s = ValidateTokenIds(path, resume[i], limits.vocabulary_size); !s.ok()) {
      return s;
    }
  }
  return absl::OkStatus();
}

ResumeTokens ResumeOf(const v1::GenerateRequest& request, std::shared_ptr<void> charge) {
  ResumeTokens::Choices choices;
  for (const auto& choice : request.resume().choices()) {
    choices.emplace_back(choice.emitted_token_ids().begin(), choice.emitted_token_ids().end());
  }
  return ResumeTokens(std::move(choices), std::move(charge));
}

std::string Fingerprint(const v1::GenerateRequest& request) {
  v1::GenerateRequest body = request;
  body.clear_request_id();
  body.clear_resume();
  body.clear_timeout_ms();
  body.clear_queue_timeout_ms();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);  // logit_bias is a map
    body.SerializeToCodedStream(&coded);
  }
  return Sha256Digest(bytes);
}

uint32_t SeedOf(const std::string& request_id) {
  const std::string digest = Sha256Digest(request_id);
  uint32_t seed = 0;
  for (int i = 0; i < 4; ++i) seed = seed << 8 | static_cast<uint8_t>(digest[i]);
  return seed;
}

}  // namespace quire
