#include "clients/cli/generation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "clients/cli/exit_code.h"
#include "clients/cli/proto_json.h"
#include "common/clock.h"

namespace quire {
namespace {

using Json = nlohmann::ordered_json;

Json LogprobsToJson(const std::vector<v1::TokenLogprobs>& logprobs) {
  Json list = Json::array();
  for (const v1::TokenLogprobs& token : logprobs) list.push_back(ToJson(token));
  return list;
}

Json ChoiceToJson(const Generation::Choice& choice) {
  Json json;
  json["token_ids"] = choice.token_ids;
  json["text"] = choice.text;
  const v1::Finished finished = choice.finished.value_or(v1::Finished());
  json["finish_reason"] = v1::Finished::Reason_Name(finished.reason());
  if (finished.has_stop_token_id()) json["stop_token_id"] = finished.stop_token_id();
  if (finished.has_stop_string()) json["stop_string"] = finished.stop_string();
  json["usage"] = ToJson(finished.usage());
  json["timings"] = ToJson(finished.timings());
  json["seed"] = finished.seed();
  if (choice.first_index > 0) json["first_index"] = choice.first_index;
  if (!choice.logprobs.empty()) json["logprobs"] = LogprobsToJson(choice.logprobs);
  if (!choice.prompt_logprobs.empty())
    json["prompt_logprobs"] = LogprobsToJson(choice.prompt_logprobs);
  return json;
}

}  // namespace

Generation::Generation(std::function<void(const std::string&)> on_text)
    : on_text_(std::move(on_text)), started_micros_(SteadyMicros()) {}

void Generation::OnAccepted(const v1::Accepted& accepted) {
  accepted_ = accepted;
  choices_.resize(std::max(accepted.parameters().n(), 1u));
}

Generation::Choice& Generation::At(uint32_t choice) {
  if (choice >= choices_.size()) choices_.resize(choice + 1);
  return choices_[choice];
}

void Generation::OnDelta(const v1::Delta& delta) {
  Choice& choice = At(delta.choice());
  if (delta.token_ids_size() > 0) {
    last_token_micros_ = SteadyMicros();
    if (!first_token_micros_.has_value()) {
      first_token_micros_ = last_token_micros_;
      num_first_tokens_ = delta.token_ids_size();
    }
    if (choice.token_ids.empty()) choice.first_index = delta.first_index();
  }
  choice.token_ids.insert(choice.token_ids.end(), delta.token_ids().begin(),
                          delta.token_ids().end());
  choice.text += delta.text();
  choice.logprobs.insert(choice.logprobs.end(), delta.logprobs().begin(), delta.logprobs().end());
  choice.prompt_logprobs.insert(choice.prompt_logprobs.end(), delta.prompt_logprobs().begin(),
                                delta.prompt_logprobs().end());
  if (on_text_ && delta.choice() == 0 && !delta.text().empty()) on_text_(delta.text());
}

void Generation::OnNotice(const v1::Notice& notice) {
  notices_.push_back(absl::StrCat(v1::Notice::Kind_Name(notice.kind()), ": ", notice.why()));
}

void Generation::OnFinished(const v1::Finished& finished) {
  Choice& choice = At(finished.choice());
  choice.text += finished.text();
  choice.finished = finished;
  if (on_text_ && finished.choice() == 0 && !finished.text().empty()) on_text_(finished.text());
}

void Generation::OnReconnect(const absl::Status& why, const std::string& target) {
  notices_.push_back(absl::StrCat("going on at ", target, " after ", Describe(why)));
}

uint64_t Generation::num_tokens() const {
  uint64_t count = 0;
  for (const Choice& choice : choices_) count += choice.token_ids.size();
  return count;
}

std::optional<double> Generation::ttft_ms() const {
  if (!first_token_micros_.has_value()) return std::nullopt;
  return (*first_token_micros_ - started_micros_) / 1e3;
}

std::optional<double> Generation::tokens_per_s() const {
  if (!first_token_micros_.has_value() || last_token_micros_ <= *first_token_micros_) {
    return std::nullopt;
  }
  return (num_tokens() - num_first_tokens_) * 1e6 / (last_token_micros_ - *first_token_micros_);
}

Json Generation::ToJson() const {
  Json json;
  json["request_id"] = accepted_->request_id();
  json.update(ChoiceToJson(choices_.front()));
  json["worker"] = accepted_->worker();
  json["numerics_id"] = accepted_->numerics_id();
  json["parameters"] = quire::ToJson(accepted_->parameters());
  if (choices_.size() > 1) {
    Json& list = json["choices"] = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i) {
      Json choice;
      choice["choice"] = i;
      choice.update(ChoiceToJson(choices_[i]));
      list.push_back(std::move(choice));
    }
  }
  if (!notices_.empty()) json["notices"] = notices_;
  return json;
}

}  // namespace quire
