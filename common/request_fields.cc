#include "common/request_fields.h"

#include <cstdio>
#include <cstdlib>

namespace quire {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr RequestField kFields[] = {
    {"request_id", "request-id", -kInfinity, kInfinity, true, "1 to 128 printable ASCII bytes",
     "made by the client", "Name of the request; the same id and body again takes the stream over"},
    {"model", "model", -kInfinity, kInfinity, true, "a model that is served", "the only one served",
     "Model to run"},
    {"engine", "engine", -kInfinity, kInfinity, true, "paged, baseline or hf-reference", "paged",
     "Kind of worker that runs the request"},
    {"worker", "worker", -kInfinity, kInfinity, true, "a name that GetLoad shows", "any",
     "Run on this worker and no other"},
    {"text", "prompt", -kInfinity, kInfinity, true, "1 byte to 1 MiB, at most context - 1 tokens",
     "none", "Prompt as text"},
    {"token_ids", "token-ids", -kInfinity, kInfinity, true,
     "1 to context - 1 ids below the vocabulary's size, at most 1,048,576", "none",
     "Prompt as token ids, taken as they are"},
    {"chat.messages", "chat", -kInfinity, kInfinity, true,
     "1 byte to 1 MiB, at most context - 1 tokens", "none", "Prompt as chat messages"},
    {"add_special_tokens", "add-special-tokens", -kInfinity, kInfinity, true, "true or false",
     "true for text, false for chat", "Let the tokenizer add its special tokens (a BOS, say)"},
    {"sampling.temperature", "temperature", 0, 2, true, "0 to 2; 0 is greedy",
     "the model's, else 1", "Divides the logits"},
    {"sampling.top_k", "top-k", 0, kInfinity, true, "0 (off) to the vocabulary's size",
     "the model's, else 0", "Keep the k most likely tokens"},
    {"sampling.top_p", "top-p", 0, 1, false, "above 0 to 1", "the model's, else 1",
     "Keep the most likely tokens up to this mass"},
    {"sampling.min_p", "min-p", 0, 1, true, "0 to 1", "the model's, else 0",
     "Keep tokens at least this likely, relative to the most likely"},
    {"sampling.seed", "seed", -kInfinity, kInfinity, true, "any", "a hash of request_id",
     "Seed of the random numbers"},
    {"sampling.n", "n", 1, 8, true, "1 to 8", "1", "Choices to generate"},
    {"penalties.repetition", "repetition-penalty", 0, 2, false, "above 0 to 2", "1",
     "Divides positive logits of tokens in prompt and output, multiplies negative ones"},
    {"penalties.presence", "presence-penalty", -2, 2, true, "-2 to 2", "0",
     "Subtracted from logits of tokens in the output"},
    {"penalties.frequency", "frequency-penalty", -2, 2, true, "-2 to 2", "0",
     "Subtracted once for each time a token is in the output"},
    {"logit_bias", "logit-bias", -100, 100, true, "at most 1,024 ids, each -100 to 100", "none",
     "Added to the raw logits of token ids"},
    {"stop.strings", "stop", -kInfinity, kInfinity, true, "at most 16 of 1 to 256 bytes", "none",
     "Text that ends a choice"},
    {"stop.token_ids", "stop-token-ids", -kInfinity, kInfinity, true,
     "at most 64 ids below the vocabulary's size", "the model's EOS ids, unless ignore_eos",
     "Token ids that end a choice, besides the model's EOS ids"},
    {"stop.ignore_eos", "ignore-eos", -kInfinity, kInfinity, true, "true or false", "false",
     "The model's EOS ids do not end a choice"},
    {"stop.include_stop_in_output", "include-stop-in-output", -kInfinity, kInfinity, true,
     "true or false", "false", "Keep the stop string in the text"},
    {"max_new_tokens", "max-new-tokens", 1, kInfinity, true, "1 to context - prompt",
     "context - prompt", "Most tokens of a choice"},
    {"min_new_tokens", "min-new-tokens", 0, kInfinity, true, "0 to max_new_tokens", "0",
     "EOS ids cannot be sampled before"},
    {"logprobs", "logprobs", 0, 20, true, "0 to 20", "off",
     "Alternatives to report for each output token, besides the token itself"},
    {"prompt_logprobs", "prompt-logprobs", 0, 20, true, "0 to 20", "off",
     "The same for the prompt's tokens"},
    {"priority", "priority", -100, 100, true, "-100 to 100", "0", "Higher runs first"},
    {"queue_timeout_ms", "queue-timeout-ms", 1, kInfinity, true, "1 or more", "none",
     "Milliseconds in which the request must have begun to run"},
    {"timeout_ms", "timeout-ms", 1, kInfinity, true, "1 or more", "none",
     "Milliseconds in which the request must have ended"},
    {"cache_salt", "cache-salt", -kInfinity, kInfinity, true, "at most 128 printable ASCII bytes",
     "empty", "Share cached prefixes only with requests of the same salt"},
    {"tenant", "tenant", -kInfinity, kInfinity, true, "at most 128 printable ASCII bytes", "empty",
     "Whom the request is for"},
    {"resume.choices", "resume-token-ids", -kInfinity, kInfinity, true,
     "at most n lists of at most max_new_tokens ids, 1,048,576 over all", "none",
     "Tokens that the client has already"},
};

}  // namespace

absl::Span<const RequestField> RequestFields() { return kFields; }

const RequestField& FieldAt(std::string_view path) {
  for (const RequestField& field : kFields) {
    if (field.path == path) return field;
  }
  std::fprintf(stderr, "no request field %.*s\n", static_cast<int>(path.size()), path.data());
  std::abort();
}

}  // namespace quire
