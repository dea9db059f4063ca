// Coordinators' messages to a worker, in any order, over connections that come and go. Events stay
// well formed, a refusal says why, and when all is over no request lives and every KV block is free
// or cached.
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "scripts.pb.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/proto_input.h"
#include "tests/fuzz/stepped_worker.h"

namespace quire {

QUIRE_FUZZ_INPUT(fuzz::WorkerScript);

namespace {

using worker::v1::SessionEvent;

// A connection's outbox: checks what is put into it.
class Sink final : public MessageSink<SessionEvent> {
 public:
  bool Write(SessionEvent event) override {
    if (!reads || closed) return false;
    QUIRE_FUZZ_CHECK(event.ByteSizeLong() <= 16u << 20, "a message beyond gRPC's limit");
    QUIRE_FUZZ_CHECK(event.has_opened() != opened_, "Opened comes once, first");
    opened_ = true;
    if (event.has_step_output()) Check(event.step_output());
    if (event.has_rejected()) {
      QUIRE_FUZZ_CHECK(
          event.rejected().status_code() != 0 && !event.rejected().status_message().empty(),
          event.ShortDebugString());
    }
    if (event.has_load()) {
      const worker::v1::Load& load = event.load();
      QUIRE_FUZZ_CHECK(load.blocks_free() + load.blocks_cached() <= load.blocks_total(),
                       load.ShortDebugString());
    }
    return true;
  }
  void Close(absl::Status) override { closed = true; }

  bool reads = true;
  bool closed = false;

 private:
  static void Check(const worker::v1::StepOutput& output) {
    const int entries = output.key_size();
    QUIRE_FUZZ_CHECK(output.attempt_size() == entries && output.first_index_size() == entries,
                     output.ShortDebugString());
    QUIRE_FUZZ_CHECK(output.choice_size() == 0 || output.choice_size() == entries,
                     output.ShortDebugString());
    int64_t tokens = output.num_tokens_size() == 0 ? entries : 0;
    for (const uint32_t count : output.num_tokens()) tokens += count;
    QUIRE_FUZZ_CHECK(tokens == output.token_ids_size(), output.ShortDebugString());
    for (const uint32_t id : output.token_ids()) {
      QUIRE_FUZZ_CHECK(id < SteppedWorker::kVocabulary, std::to_string(id));
    }
    for (const worker::v1::Finish& finish : output.finishes()) {
      QUIRE_FUZZ_CHECK((finish.reason() == v1::Finished::ABORTED) == (finish.status_code() != 0),
                       finish.ShortDebugString());
      QUIRE_FUZZ_CHECK(
          finish.reason() >= v1::Finished::STOP && finish.reason() <= v1::Finished::ABORTED,
          finish.ShortDebugString());
    }
  }

  bool opened_ = false;
};

struct Connection {
  std::shared_ptr<Sink> sink;
  std::unique_ptr<SessionTable::Handler> handler;  // null: there is none
};

void Cut(Connection* connection) {
  if (connection->handler != nullptr) {
    connection->handler->OnClosed(absl::UnavailableError("cut"));
  }
  *connection = {};
}

}  // namespace

QUIRE_FUZZ_TARGET(session_requests, input) {
  fuzz::WorkerScript script;
  if (!ReadInput(input, &script)) return;
  SteppedWorker worker(1 + script.steps_size() % 2);
  Connection connections[3];
  std::vector<Connection> replaced;
  for (const fuzz::WorkerScript::Step& step : script.steps()) {
    Connection& connection = connections[step.connection() % 3];
    switch (step.action_case()) {
      case fuzz::WorkerScript::Step::kRequest:
        // What was closed takes nothing more, and hears so.
        if (connection.sink != nullptr && connection.sink->closed) Cut(&connection);
        if (connection.handler != nullptr) connection.handler->OnMessage(step.request());
        break;
      case fuzz::WorkerScript::Step::kConnect:
        replaced.push_back(std::exchange(connection, {}));
        connection.sink = std::make_shared<Sink>();
        connection.handler = worker.table().Connect(connection.sink);
        break;
      case fuzz::WorkerScript::Step::kCut:
        Cut(&connection);
        break;
      case fuzz::WorkerScript::Step::kRunSteps:
        for (uint32_t i = 0; i < step.run_steps() % 32; ++i) worker.Step();
        break;
      case fuzz::WorkerScript::Step::kAdvanceMs:
        worker.now += Micros{step.advance_ms() % 30'000} * 1000;
        worker.table().Tick();
        break;
      case fuzz::WorkerScript::Step::kStopReading:
        if (connection.sink != nullptr) connection.sink->reads = false;
        break;
      case fuzz::WorkerScript::Step::kDrain:
        worker.table().StartDraining();
        break;
      case fuzz::WorkerScript::Step::ACTION_NOT_SET:
        break;
    }
    if (step.action_case() != fuzz::WorkerScript::Step::kConnect) {
      for (Connection& old : replaced) Cut(&old);
      replaced.clear();
    }
  }
  // Everyone goes; what is alive ends with its grace period.
  for (Connection& old : replaced) Cut(&old);
  for (Connection& connection : connections) Cut(&connection);
  worker.RunUntilIdle();
  worker.now += SteppedWorker::kOrphanGrace + 1;
  worker.table().Tick();
  worker.RunUntilIdle();
  const EngineLoad load = worker.load();
  QUIRE_FUZZ_CHECK(
      load.running == 0 && load.waiting == 0,
      std::to_string(load.running) + " run, " + std::to_string(load.waiting) + " wait");
  QUIRE_FUZZ_CHECK(load.blocks_free + load.blocks_cached == load.blocks_total,
                   std::to_string(load.blocks_free) + " free, " +
                       std::to_string(load.blocks_cached) + " cached of " +
                       std::to_string(load.blocks_total));
  QUIRE_FUZZ_CHECK(worker.table().WaitUntilIdle(0), "a request lives on");
}

}  // namespace quire
