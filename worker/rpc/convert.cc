#include "worker/rpc/convert.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/request_fields.h"

namespace quire {
namespace {

// A model's own EOS ids come on top of a request's 64.
constexpr int kMaxStopIds = 4096;

// The ranges of docs/api.md, as far as a value outside them could harm the worker.
absl::Status CheckParameters(const v1::ResolvedParameters& parameters) {
  const auto check = [](const char* field, double value, double low, double high) {
    if (std::isfinite(value) && value >= low && value <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("parameters.", field, " is ", value, "; allowed: ", low, " to ", high));
  };
  const absl::Status checks[] = {
      check("temperature", parameters.temperature(), 0, 2),
      check("top_p", parameters.top_p(), 0, 1),
      check("min_p", parameters.min_p(), 0, 1),
      check("n", parameters.n(), 1, 8),
      check("presence_penalty", parameters.presence_penalty(), -2, 2),
      check("frequency_penalty", parameters.frequency_penalty(), -2, 2),
      check("logprobs", parameters.logprobs(), 0, 20),
      check("prompt_logprobs", parameters.prompt_logprobs(), 0, 20),
      check("max_new_tokens", parameters.max_new_tokens(), 1, 1u << 30),
      check("stop_token_ids", parameters.stop_token_ids_size(), 0, kMaxStopIds),
      check("eos_token_ids", parameters.eos_token_ids_size(), 0, kMaxStopIds),
      check("logit_bias_token_ids", parameters.logit_bias_token_ids_size(), 0, 1024),
  };
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  const RequestField& repetition = FieldAt("penalties.repetition");
  if (!repetition.Allows(parameters.repetition_penalty())) {
    return absl::InvalidArgumentError(absl::StrCat("parameters.repetition_penalty is ",
                                                   parameters.repetition_penalty(),
                                                   "; allowed: ", std::string(repetition.allowed)));
  }
  if (parameters.logit_bias_token_ids_size() != parameters.logit_bias_values_size()) {
    return absl::InvalidArgumentError("parameters.logit_bias_values: one a token id is needed");
  }
  std::vector<uint32_t> biased(parameters.logit_bias_token_ids().begin(),
                               parameters.logit_bias_token_ids().end());
  std::sort(biased.begin(), biased.end());
  if (const auto twice = std::adjacent_find(biased.begin(), biased.end()); twice != biased.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("parameters.logit_bias_token_ids has ", *twice, " twice"));
  }
  for (const float bias : parameters.logit_bias_values()) {
    if (absl::Status status = check("logit_bias_values", bias, -100, 100); !status.ok())
      return status;
  }
  return absl::OkStatus();
}

absl::Status CheckChoices(const worker::v1::Submit& submit) {
  const int n = static_cast<int>(submit.parameters().n());
  for (const auto& [field, entries] :
       {std::pair{"emitted", submit.emitted_size()},
        std::pair{"choice_finished", submit.choice_finished_size()}}) {
    if (entries > n) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, " has ", entries, " entries; parameters.n is ", n));
    }
  }
  const auto& finished = submit.choice_finished();
  if (finished.size() == n &&
      std::all_of(finished.begin(), finished.end(), [](bool f) { return f; })) {
    return absl::InvalidArgumentError("choice_finished leaves no choice to run");
  }
  return absl::OkStatus();
}

std::vector<TokenId> Sorted(const google::protobuf::RepeatedField<uint32_t>& ids) {
  std::vector<TokenId> sorted(ids.begin(), ids.end());
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  return sorted;
}

SamplingParams ToSamplingParams(const v1::ResolvedParameters& parameters) {
  SamplingParams params;
  params.temperature = parameters.temperature();
  params.top_k = parameters.top_k();
  params.top_p = parameters.top_p();
  params.min_p = parameters.min_p();
  params.seed = parameters.seed();
  params.repetition_penalty = parameters.repetition_penalty();
  params.presence_penalty = parameters.presence_penalty();
  params.frequency_penalty = parameters.frequency_penalty();
  for (int i = 0; i < parameters.logit_bias_token_ids_size(); ++i) {
    params.logit_bias.emplace_back(parameters.logit_bias_token_ids(i),
                                   parameters.logit_bias_values(i));
  }
  std::sort(params.logit_bias.begin(), params.logit_bias.end());
  params.min_new_tokens = parameters.min_new_tokens();
  params.eos_token_ids = Sorted(parameters.eos_token_ids());
  params.stop_token_ids = Sorted(parameters.stop_token_ids());
  if (parameters.has_logprobs()) params.logprobs = parameters.logprobs();
  if (parameters.has_prompt_logprobs()) params.prompt_logprobs = parameters.prompt_logprobs();
  return params;
}

double ToMilliseconds(Micros micros) { return static_cast<double>(micros) / 1000; }

}  // namespace

absl::StatusOr<EngineRequest> ToEngineRequest(const worker::v1::Submit& submit, uint32_t session,
                                              Micros now) {
  const v1::ResolvedParameters& parameters = submit.parameters();
  if (absl::Status status = CheckParameters(parameters); !status.ok()) return status;
  if (absl::Status status = CheckChoices(submit); !status.ok()) return status;
  EngineRequest request;
  request.key = {session, submit.key()};
  request.attempt = submit.attempt();
  request.prompt.assign(submit.prompt_token_ids().begin(), submit.prompt_token_ids().end());
  for (const auto& choice : submit.emitted()) {
    request.emitted.emplace_back(choice.emitted_token_ids().begin(),
                                 choice.emitted_token_ids().end());
  }
  request.choice_finished.assign(submit.choice_finished().begin(), submit.choice_finished().end());
  request.params = ToSamplingParams(parameters);
  request.n = parameters.n();
  request.max_new_tokens = parameters.max_new_tokens();
  request.priority = parameters.priority();
  request.tenant = submit.tenant();
  request.cache_salt = submit.cache_salt();
  if (submit.queue_timeout_ms() > 0) {
    request.queue_deadline = now + Micros{submit.queue_timeout_ms()} * 1000;
  }
  return request;
}

worker::v1::Finish ToProto(const ChoiceFinish& finish) {
  worker::v1::Finish proto;
  proto.set_key(finish.key.request);
  proto.set_attempt(finish.attempt);
  proto.set_choice(finish.choice);
  switch (finish.reason) {
    case FinishReason::kStop:
      proto.set_reason(v1::Finished::STOP);
      break;
    case FinishReason::kLength:
      proto.set_reason(v1::Finished::LENGTH);
      break;
    case FinishReason::kAborted:
      proto.set_reason(v1::Finished::ABORTED);
      break;
  }
  if (finish.stop_token.has_value()) proto.set_stop_token_id(*finish.stop_token);
  proto.set_status_code(static_cast<int>(finish.status.code()));
  proto.set_status_message(std::string(finish.status.message()));
  v1::Usage& usage = *proto.mutable_usage();
  usage.set_prompt_tokens(finish.usage.prompt_tokens);
  usage.set_cached_tokens(finish.usage.cached_tokens);
  usage.set_output_tokens(finish.usage.output_tokens);
  usage.set_recomputed_tokens(finish.usage.recomputed_tokens);
  usage.mutable_kv()->set_reserved_bytes(finish.usage.kv_reserved_bytes);
  usage.mutable_kv()->set_used_bytes(finish.usage.kv_used_bytes);
  usage.mutable_kv()->set_max_unused_tokens(finish.usage.kv_max_unused_tokens);
  proto.mutable_timings()->set_queued_ms(ToMilliseconds(finish.timings.queued));
  proto.mutable_timings()->set_prefill_ms(ToMilliseconds(finish.timings.prefill));
  proto.mutable_timings()->set_decode_ms(ToMilliseconds(finish.timings.decode));
  return proto;
}

v1::TokenLogprobs ToProto(const TokenLogprobs& logprobs) {
  v1::TokenLogprobs proto;
  proto.set_logprob(logprobs.logprob);
  for (const TopLogprob& top : logprobs.top) {
    auto* alternative = proto.add_top();
    alternative->set_token_id(top.token);
    alternative->set_logprob(top.logprob);
  }
  return proto;
}

}  // namespace quire
