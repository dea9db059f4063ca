// A client's GenerateRequest: checked, prepared, placed, sent to a worker, run there and streamed
// back. A refusal names the field; what is accepted is within the documented ranges, is accepted by
// the worker too, and ends with OK; then every KV block is free or cached.
#include "common/request_fields.h"
#include "common/rpc_status.h"
#include "coordinator/rpc/validate.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/proto_input.h"
#include "tests/fuzz/stepped_coordinator.h"
#include "tests/fuzz/stepped_worker.h"
#include "worker/rpc/convert.h"

namespace quire {

QUIRE_FUZZ_INPUT(v1::GenerateRequest);

namespace {

using worker::v1::SessionEvent;

void CheckRefused(const absl::Status& status) {
  CheckTold(status);
  QUIRE_FUZZ_CHECK(absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
                       absl::IsFailedPrecondition(status),
                   status.ToString());
  QUIRE_FUZZ_CHECK(FieldOf(status).has_value() && !FieldOf(status)->empty(), status.ToString());
}

void CheckParameters(const v1::ResolvedParameters& p, uint32_t prompt_tokens) {
  const struct {
    const char* path;
    double value;
  } numbers[] = {
      {"sampling.temperature", p.temperature()},
      {"sampling.top_k", static_cast<double>(p.top_k())},
      {"sampling.top_p", p.top_p()},
      {"sampling.min_p", p.min_p()},
      {"sampling.n", static_cast<double>(p.n())},
      {"penalties.repetition", p.repetition_penalty()},
      {"penalties.presence", p.presence_penalty()},
      {"penalties.frequency", p.frequency_penalty()},
      {"max_new_tokens", static_cast<double>(p.max_new_tokens())},
      {"min_new_tokens", static_cast<double>(p.min_new_tokens())},
      {"logprobs", static_cast<double>(p.logprobs())},
      {"prompt_logprobs", static_cast<double>(p.prompt_logprobs())},
      {"priority", static_cast<double>(p.priority())},
  };
  for (const auto& number : numbers) {
    QUIRE_FUZZ_CHECK(FieldAt(number.path).Allows(number.value), number.path);
  }
  QUIRE_FUZZ_CHECK(p.top_k() <= SteppedWorker::kVocabulary, p.ShortDebugString());
  QUIRE_FUZZ_CHECK(prompt_tokens + p.max_new_tokens() <= SteppedWorker::kContext,
                   p.ShortDebugString());
  QUIRE_FUZZ_CHECK(p.min_new_tokens() <= p.max_new_tokens(), p.ShortDebugString());
}

// The worker's end of the session.
class Events final : public MessageSink<SessionEvent> {
 public:
  bool Write(SessionEvent event) override {
    waiting.push_back(std::move(event));
    return true;
  }
  void Close(absl::Status status) override { QUIRE_FUZZ_CHECK(false, status.ToString()); }

  std::deque<SessionEvent> waiting;
};

// Moves all messages there are. False: there was none.
bool Exchange(SteppedCoordinator& coordinator, SessionTable::Handler& handler, Events& events) {
  bool moved = false;
  for (const auto& request : coordinator.TakeSent()) {
    if (request.has_submit()) {
      const auto converted = ToEngineRequest(request.submit(), 0, 0);
      QUIRE_FUZZ_CHECK(converted.ok(), converted.status().ToString());
    }
    handler.OnMessage(request);
    moved = true;
  }
  for (const SessionEvent& event : std::exchange(events.waiting, {})) {
    QUIRE_FUZZ_CHECK(!event.has_rejected(), event.ShortDebugString());
    coordinator.Say(event);
    moved = true;
  }
  return moved;
}

}  // namespace

QUIRE_FUZZ_TARGET(generate_request, input) {
  v1::GenerateRequest request;
  if (!ReadInput(input, &request)) return;
  if (const absl::Status valid = ValidateRequest(request); !valid.ok()) return CheckRefused(valid);
  const std::string id = request.request_id().empty() ? "made" : request.request_id();
  v1::GenerateRequest renamed = request;
  renamed.set_request_id("another");
  QUIRE_FUZZ_CHECK(Fingerprint(request) == Fingerprint(renamed), "the name is not the body");

  static auto* const coordinator = new SteppedCoordinator;
  SteppedWorker worker(1);
  const auto events = std::make_shared<Events>();
  const auto handler = worker.table().Connect(events);
  coordinator->Connect();
  while (Exchange(*coordinator, *handler, *events)) {
  }
  coordinator->WaitForModels();
  QUIRE_FUZZ_CHECK(coordinator->View().model != nullptr, coordinator->View().why);

  auto prepared = coordinator->Prepare(request, id);
  if (!prepared.ok()) {
    handler->OnClosed(absl::UnavailableError("done"));
    // The machine stood still for longer than a worker may be silent.
    if (absl::IsUnavailable(prepared.status())) return;
    return CheckRefused(prepared.status());
  }
  CheckParameters(prepared->parameters, static_cast<uint32_t>(prepared->prompt.size()));
  ResumeTokens resume = prepared->emitted;
  const auto stream =
      std::make_shared<RequestStream>(1, id, Fingerprint(request), coordinator->MakeContext());
  const auto client = std::make_shared<CheckingClient>(stream, resume);
  QUIRE_FUZZ_CHECK(stream->Attach(client, resume, std::nullopt, ""), "a new stream has failed");
  stream->Begin(*std::move(prepared));
  do {
    while (Exchange(*coordinator, *handler, *events)) {
    }
  } while (worker.Step() || !events->waiting.empty());

  QUIRE_FUZZ_CHECK(client->status().has_value(), "the stream does not end");
  // A stop string may lie before tokens that the client claims to have.
  const std::string field = FieldOf(*client->status()).value_or("");
  QUIRE_FUZZ_CHECK(client->status()->ok() || absl::IsUnavailable(*client->status()) ||
                       field.starts_with("resume.choices["),
                   client->status()->ToString());
  for (const auto& [choice, finished] : client->finished()) {
    if (!client->status()->ok()) break;
    QUIRE_FUZZ_CHECK(finished.usage().output_tokens() == client->tokens(choice).size(),
                     finished.ShortDebugString());
  }
  handler->OnClosed(absl::UnavailableError("done"));
  worker.RunUntilIdle();
  const EngineLoad load = worker.load();
  QUIRE_FUZZ_CHECK(load.running + load.waiting == 0 &&
                       load.blocks_free + load.blocks_cached == load.blocks_total,
                   std::to_string(load.blocks_free));
}

}  // namespace quire
