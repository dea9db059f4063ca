// One worker's messages to a coordinator that has requests there: whatever it says, each client's
// stream stays well formed, and ends once the session is lost; nothing is left of the requests.
#include <map>

#include "coordinator/rpc/describe.h"
#include "coordinator/rpc/validate.h"
#include "scripts.pb.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/proto_input.h"
#include "tests/fuzz/stepped_coordinator.h"
#include "tests/fuzz/stepped_worker.h"

namespace quire {

QUIRE_FUZZ_INPUT(fuzz::CoordinatorScript);

namespace {

struct Request {
  std::shared_ptr<RequestStream> stream;
  std::shared_ptr<CheckingClient> client;
};

void Begin(SteppedCoordinator& coordinator, const v1::GenerateRequest& request,
           std::map<uint64_t, Request>* requests) {
  if (!ValidateRequest(request).ok()) return;
  auto prepared = coordinator.Prepare(request, "made");
  if (!prepared.ok()) return CheckTold(prepared.status());
  const uint64_t key = requests->size() + 1;
  const ResumeTokens resume = prepared->emitted;
  Request& added = (*requests)[key];
  added.stream = std::make_shared<RequestStream>(key, "made", "body", coordinator.MakeContext());
  added.client = std::make_shared<CheckingClient>(added.stream, resume);
  QUIRE_FUZZ_CHECK(added.stream->Attach(added.client, resume, std::nullopt, ""), "failed");
  added.stream->Begin(*std::move(prepared));
}

}  // namespace

QUIRE_FUZZ_TARGET(session_events, input) {
  fuzz::CoordinatorScript script;
  if (!ReadInput(input, &script)) return;
  static auto* const coordinator = new SteppedCoordinator;
  coordinator->Connect();
  coordinator->Greet(SteppedWorker::Info());
  std::map<uint64_t, Request> requests;
  for (const fuzz::CoordinatorScript::Step& step : script.steps()) {
    const auto find = [&requests](uint64_t key) {
      const auto found = requests.find(key);
      return found == requests.end() ? Request() : found->second;
    };
    switch (step.action_case()) {
      case fuzz::CoordinatorScript::Step::kEvent:
        coordinator->Say(step.event());
        if (step.event().has_opened()) coordinator->WaitForModels();
        break;
      case fuzz::CoordinatorScript::Step::kBegin:
        Begin(*coordinator, step.begin(), &requests);
        break;
      case fuzz::CoordinatorScript::Step::kCancel:
        if (const Request request = find(step.cancel()); request.stream) request.stream->Cancel();
        break;
      case fuzz::CoordinatorScript::Step::kClientGone:
        if (const Request request = find(step.client_gone()); request.stream) {
          request.stream->ClientGone(request.client.get());
        }
        break;
      case fuzz::CoordinatorScript::Step::kCut:
        coordinator->Lose();
        coordinator->Connect();
        coordinator->Greet(SteppedWorker::Info());
        break;
      case fuzz::CoordinatorScript::Step::kTick:
        coordinator->registry().Tick();
        break;
      case fuzz::CoordinatorScript::Step::ACTION_NOT_SET:
        break;
    }
    // What GetLoad and ListModels answer meanwhile.
    (void)ToWorkerLoad(coordinator->View());
    (void)ListServedModels(coordinator->registry().Views());
    coordinator->TakeSent();
  }
  coordinator->Lose();
  for (const auto& [key, request] : requests) {
    QUIRE_FUZZ_CHECK(request.stream->num_bytes() < 16u << 20, "a stream without bounds");
    v1::GenerateEvent event;
    absl::Status status;
    RequestStream::Cursor cursor;
    RequestStream::Taken taken;
    while ((taken = request.stream->Take(&cursor, &event, &status)) ==
           RequestStream::Taken::kEvent) {
    }
    QUIRE_FUZZ_CHECK(taken == RequestStream::Taken::kEnd, "a request goes on without its worker");
  }
  coordinator->Connect();
  coordinator->Greet(SteppedWorker::Info());
  QUIRE_FUZZ_CHECK(coordinator->View().snapshot.unreported == 0, "sequences are left over");
}

}  // namespace quire
