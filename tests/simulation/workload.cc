#include "tests/simulation/workload.h"

#include <algorithm>
#include <utility>

#include "coordinator/rpc/validate.h"
#include "coordinator/stream/choice_output.h"
#include "scheduler/check.h"
#include "tests/simulation/sim_worker.h"
#include "tests/text/small_tokenizers.h"
#include "worker/device/fake/fake_executor.h"

namespace quire {
namespace {

constexpr int64_t kMaxPrompt = 24;
constexpr int64_t kMaxNewTokens = 16;

const std::shared_ptr<const ServedModel>& Model() {
  static const auto* const model =
      new std::shared_ptr<const ServedModel>(*SimCatalog()->Acquire("m", SimModelFiles()));
  return *model;
}

// What the device makes of a choice without regard to stop strings.
ExpectedChoice Compute(const v1::GenerateRequest& request, const v1::ResolvedParameters& parameters,
                       uint32_t choice) {
  SamplingParams params;
  params.temperature = parameters.temperature();
  params.seed = parameters.seed();
  params.choice = choice;
  std::vector<uint32_t> tokens(request.token_ids().ids().begin(), request.token_ids().ids().end());
  const size_t prompt = tokens.size();
  ExpectedChoice expected;
  while (tokens.size() < prompt + parameters.max_new_tokens()) {
    tokens.push_back(FakeExecutor::NextToken(tokens, params, SimWorker::kVocabulary));
    const auto& stops = parameters.stop_token_ids();
    if (!std::binary_search(stops.begin(), stops.end(), tokens.back())) continue;
    expected.reason = v1::Finished::STOP;
    break;
  }
  expected.tokens.assign(tokens.begin() + static_cast<int64_t>(prompt), tokens.end());
  return expected;
}

// Its text, and where a stop string ends it.
void Detokenize(const v1::GenerateRequest& request, v1::ResolvedParameters parameters,
                ExpectedChoice* expected) {
  parameters.set_n(1);
  auto outputs =
      ChoiceOutput::CreateAll(Model()->tokenizer(), request.token_ids().ids(), parameters);
  QUIRE_CHECK(outputs.ok());
  ChoiceOutput& output = outputs->front();
  QUIRE_CHECK(output.Append(expected->tokens).ok() && output.Flush(/*aborted=*/false).ok());
  v1::Delta all;
  output.CopyTo(0, output.num_tokens(), &all);
  expected->tokens = output.ids();
  expected->text = all.text() + output.tail();
  if (!output.stopped()) return;
  expected->reason = v1::Finished::STOP;
  expected->stop_string = output.matched_stop();
}

v1::ResolvedParameters Resolve(const v1::GenerateRequest& request) {
  const auto parameters = ResolveParameters(
      request, request.request_id(), static_cast<uint32_t>(request.token_ids().ids_size()),
      *Model(), {SimWorker::kContext, SimWorker::kVocabulary});
  QUIRE_CHECK(parameters.ok());
  return *parameters;
}

// A few bytes of the answer's text, from one character's beginning to another's.
std::string PieceOf(const std::string& text, SimRandom* random) {
  const auto is_start = [&text](size_t at) {
    return at >= text.size() || (static_cast<uint8_t>(text[at]) & 0xC0) != 0x80;
  };
  if (text.empty()) return "";
  auto begin = static_cast<size_t>(random->Range(0, static_cast<int64_t>(text.size()) - 1));
  while (!is_start(begin)) ++begin;
  size_t end = begin + static_cast<size_t>(random->Range(1, 4));
  while (!is_start(end)) ++end;
  return text.substr(std::min(begin, text.size()), end - begin);
}

}  // namespace

const ModelFiles& SimModelFiles() {
  static const ModelFiles* const files =
      new ModelFiles{{"config.json", R"({"eos_token_id": [5, 77]})"},
                     {"tokenizer.json", SmallTokenizers().front().json.dump()}};
  return *files;
}

ModelCatalog* SimCatalog() {
  static auto* const catalog = new ModelCatalog(ServedModel::Options{});
  return catalog;
}

SimRequest MakeSimRequest(const std::string& request_id, bool is_poison, SimRandom* random) {
  SimRequest made;
  v1::GenerateRequest& request = made.request;
  request.set_request_id(request_id);
  // Prompts begin alike, so that the prefix cache has something to find.
  const auto family = static_cast<uint32_t>(random->Range(0, 2));
  const int64_t shared = random->Range(0, 16);
  const int64_t length = random->Range(std::max<int64_t>(1, shared), kMaxPrompt);
  for (int64_t i = 0; i < length; ++i) {
    request.mutable_token_ids()->add_ids(
        i < shared ? static_cast<uint32_t>(i * 7 + family)
                   : static_cast<uint32_t>(random->Range(0, SimWorker::kPoisonToken - 1)));
  }
  if (is_poison) request.mutable_token_ids()->set_ids(0, SimWorker::kPoisonToken);
  request.set_max_new_tokens(static_cast<uint32_t>(random->Range(1, kMaxNewTokens)));
  if (random->Chance(30)) {
    request.mutable_sampling()->set_n(static_cast<uint32_t>(random->Range(2, 4)));
  }
  if (random->Chance(50)) {
    request.mutable_sampling()->set_temperature(0);
  } else if (random->Chance(50)) {
    request.mutable_sampling()->set_seed(random->Next());
  }
  if (random->Chance(20)) request.mutable_stop()->set_ignore_eos(true);
  if (random->Chance(30)) {
    for (int i = 0; i < 16; ++i) {
      request.mutable_stop()->add_token_ids(
          static_cast<uint32_t>(random->Range(0, SimWorker::kVocabulary - 1)));
    }
  }
  if (random->Chance(30)) request.set_priority(static_cast<int32_t>(random->Range(-2, 2)));
  if (random->Chance(15)) request.set_logprobs(0);
  if (random->Chance(20)) request.set_cache_salt("salt");
  if (random->Chance(40)) {
    ExpectedChoice first = Compute(request, Resolve(request), 0);
    Detokenize(request, Resolve(request), &first);
    if (const std::string stop = PieceOf(first.text, random); !stop.empty()) {
      request.mutable_stop()->add_strings(stop);
      request.mutable_stop()->set_include_stop_in_output(random->Chance(50));
    }
  }
  const v1::ResolvedParameters parameters = Resolve(request);
  made.seed = parameters.seed();
  for (uint32_t choice = 0; choice < parameters.n(); ++choice) {
    Detokenize(request, parameters,
               &made.expected.emplace_back(Compute(request, parameters, choice)));
  }
  return made;
}

}  // namespace quire
