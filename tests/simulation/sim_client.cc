#include "tests/simulation/sim_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/rpc/validate.h"
#include "worker/device/fake/fake_executor.h"

namespace quire {
namespace {

constexpr int64_t kCancelGrace = 1'000'000;  // as RetryOptions::cancel_grace
// A client gives up when every attempt for so long has ended UNAVAILABLE: the pauses of
// RetryOptions between eight rounds, in microseconds.
constexpr int64_t kPatienceMicros = 7'100'000;

}  // namespace

class SimClient::Peer final : public SimCallPeer {
 public:
  Peer(SimClient* client, SimConnection* connection) : client_(client), connection_(connection) {}
  void OnEvent(v1::GenerateEvent event) override {
    client_->OnEvent(*connection_, std::move(event));
  }
  void OnEnd(const absl::Status& status) override { client_->OnEnd(*connection_, status); }

 private:
  SimClient* const client_;
  SimConnection* const connection_;
};

SimClient::SimClient(uint32_t number, const World* world, const Plan& plan)
    : number_(number),
      world_(world),
      plan_(plan),
      policy_(RetryOptions(), world->coordinators.size()),
      progress_(v1::Resume()),
      target_(static_cast<size_t>(
          world->random->Range(0, static_cast<int64_t>(world->coordinators.size()) - 1))),
      got_(plan.request->expected.size()),
      finished_(got_.size(), false),
      last_token_at_(plan.start_at) {
  world_->queue->At(plan_.start_at, [this] { Connect(); });
  if (plan_.cancel != Plan::Cancel::kNever) {
    world_->queue->At(plan_.cancel_at, [this] { CancelNow(); });
  }
}

std::string SimClient::Describe() const {
  return absl::StrCat("client ", number_, " of ", plan_.request->request.request_id());
}

void SimClient::Fail(const std::string& what) {
  world_->fail(absl::StrCat(Describe(), ": ", what));
}

int64_t SimClient::ToServer(SimConnection& connection) const {
  const int64_t at =
      world_->paths[connection.target]->Arrival(world_->queue->now(), world_->random);
  return connection.last_to_server = std::max(connection.last_to_server, at);
}

v1::GenerateRequest SimClient::RequestForNow() const {
  v1::GenerateRequest request = plan_.request->request;
  if (progress_.started()) *request.mutable_resume() = progress_.resume();
  if (request.has_timeout_ms()) {
    const int64_t elapsed_ms = (world_->queue->now() - plan_.start_at) / 1000;
    request.set_timeout_ms(
        static_cast<uint32_t>(std::max<int64_t>(1, request.timeout_ms() - elapsed_ms)));
  }
  return request;
}

void SimClient::Connect() {
  if (result_.has_value()) return;
  if (cancelled_) return End(absl::CancelledError("cancelled by the client"));
  world_->trace->Note(world_->queue->now(), "connect", {number_, static_cast<int64_t>(target_)});
  progress_.BeginConnection();
  connection_ = std::make_shared<SimConnection>();
  connection_->client = this;
  connection_->target = target_;
  if (progress_.num_new_tokens() > 0) ++(*world_->counts)["resumed streams"];
  SimCoordinator* const coordinator = world_->coordinators[target_];
  const auto send = [this, keep = std::weak_ptr<SimConnection>(connection_)](
                        std::function<void(SimCallPeer&)> word) {
    const auto held = keep.lock();
    if (held == nullptr || held->is_lost) return;
    held->last_to_client =
        std::max(held->last_to_client,
                 world_->paths[held->target]->Arrival(world_->queue->now(), world_->random));
    world_->queue->At(held->last_to_client, [this, held, word = std::move(word)] {
      if (held->is_over || held->is_lost) return;
      Peer peer(this, held.get());
      word(peer);
    });
  };
  const auto arrive = [this, connection = connection_, coordinator, send,
                       request = RequestForNow()] {
    if (connection->is_lost) return;
    connection->call = std::make_shared<SimCall>(&coordinator->process(), ResumeOf(request),
                                                 plan_.write_micros, send);
    coordinator->Generate(request, connection->call);
  };
  if (coordinator->is_running()) {
    coordinator->process().At(ToServer(*connection_), arrive);
  } else {
    const int64_t at = ToServer(*connection_);
    world_->queue->At(at, [this, connection = connection_] {
      OnEnd(*connection, absl::UnavailableError("connection refused"));
    });
  }
}

void SimClient::Cut(int64_t client_hears_at, int64_t server_hears_at) {
  const std::shared_ptr<SimConnection> connection = connection_;
  if (connection == nullptr || connection->is_over) return;
  connection->is_lost = true;
  world_->queue->At(client_hears_at, [this, connection] {
    OnEnd(*connection, absl::UnavailableError("the connection was lost"));
  });
  world_->coordinators[connection->target]->process().At(server_hears_at, [connection] {
    if (connection->call != nullptr) connection->call->Cancelled();
  });
}

void SimClient::Disconnect() {
  const std::shared_ptr<SimConnection> connection = connection_;
  if (connection == nullptr || connection->is_over) return;
  connection->is_lost = connection->is_over = true;
  world_->coordinators[connection->target]->process().At(ToServer(*connection), [connection] {
    if (connection->call != nullptr) connection->call->Cancelled();
  });
}

void SimClient::CancelNow() {
  if (result_.has_value()) return;
  cancelled_ = true;
  world_->trace->Note(world_->queue->now(), "cancel", {number_});
  if (connection_ == nullptr || connection_->is_over) return;  // Connect sees it
  ++(*world_->counts)["cancelled requests"];
  const auto leave = [this] {
    if (result_.has_value()) return;
    Disconnect();
    End(absl::CancelledError("cancelled by the client"));
  };
  if (plan_.cancel == Plan::Cancel::kByLeaving || !progress_.started()) return leave();
  SimCoordinator* const coordinator = world_->coordinators[connection_->target];
  if (coordinator->is_running()) {
    coordinator->process().At(ToServer(*connection_), [this, coordinator, leave] {
      if (coordinator->Cancel(plan_.request->request.request_id())) return;
      world_->queue->At(world_->queue->now(), leave);
    });
  }
  world_->queue->At(world_->queue->now() + kCancelGrace, leave);
}

// --- What the server says ---

void SimClient::OnEvent(const SimConnection& connection, v1::GenerateEvent event) {
  if (connection_.get() != &connection || result_.has_value()) return;
  world_->trace->Note(world_->queue->now(), "client event",
                      {number_, static_cast<int64_t>(event.ByteSizeLong())});
  CheckRaw(event);
  const auto is_new = progress_.Accept(&event);
  if (!is_new.ok()) return Fail(is_new.status().ToString());
  if (*is_new) Deliver(event);
}

void SimClient::CheckRaw(const v1::GenerateEvent& event) {
  if (!event.has_delta()) return;
  const v1::Delta& delta = event.delta();
  if (delta.choice() >= got_.size()) return Fail("a choice that there is not");
  const std::vector<uint32_t>& tokens = plan_.request->expected[delta.choice()].tokens;
  for (int i = 0; i < delta.token_ids_size(); ++i) {
    const size_t index = delta.first_index() + static_cast<size_t>(i);
    if (index >= tokens.size() || tokens[index] != delta.token_ids(i)) {
      return Fail(absl::StrCat("token ", index, " of choice ", delta.choice(), " is ",
                               delta.token_ids(i), "; expected: ", absl::StrJoin(tokens, " ")));
    }
  }
  if (plan_.request->request.has_logprobs()) {
    // None are known of tokens that a rival resumed the stream with.
    const bool has_rival = plan_.ends.contains(absl::StatusCode::kAborted);
    if (delta.logprobs_size() != delta.token_ids_size() &&
        !(has_rival && delta.logprobs_size() == 0))
      return Fail("log-probabilities are missing");
    for (int i = 0; i < delta.logprobs_size(); ++i) {
      const auto position = static_cast<uint32_t>(plan_.request->request.token_ids().ids_size()) +
                            delta.first_index() + static_cast<uint32_t>(i);
      if (delta.logprobs(i).logprob() != FakeExecutor::LogprobAt(position)) {
        return Fail(absl::StrCat("the log-probability at position ", position, " is another's"));
      }
    }
  }
}

void SimClient::Deliver(const v1::GenerateEvent& event) {
  SimCounts& counts = *world_->counts;
  if (event.has_notice()) {
    if (event.notice().kind() == v1::Notice::MIGRATED) ++counts["migrations"];
    if (event.notice().kind() == v1::Notice::PREEMPTED) ++counts["preemption notices"];
  }
  if (event.has_delta()) {
    const v1::Delta& delta = event.delta();
    last_token_at_ = world_->queue->now();
    ExpectedChoice& got = got_[delta.choice()];
    if (finished_[delta.choice()]) return Fail("tokens after the end");
    if (delta.first_index() != got.tokens.size()) return Fail("a gap or a repeat");
    got.tokens.insert(got.tokens.end(), delta.token_ids().begin(), delta.token_ids().end());
    got.text += delta.text();
  }
  if (event.has_finished()) {
    const v1::Finished& finished = event.finished();
    const uint32_t choice = finished.choice();
    if (choice >= got_.size() || finished_[choice]) return Fail("a choice that ends twice");
    finished_[choice] = true;
    const ExpectedChoice& expected = plan_.request->expected[choice];
    const ExpectedChoice& got = got_[choice];
    const auto differs = [&](const char* what, const auto& had, const auto& due) {
      Fail(absl::StrCat("choice ", choice, " ended with ", what, " ", had, ", expected ", due));
    };
    if (got.tokens != expected.tokens) {
      return differs("tokens", absl::StrJoin(got.tokens, " "), absl::StrJoin(expected.tokens, " "));
    }
    if (got.text + finished.text() != expected.text) {
      return differs("text", got.text + finished.text(), expected.text);
    }
    if (finished.reason() != expected.reason) {
      return differs("reason", static_cast<int>(finished.reason()),
                     static_cast<int>(expected.reason));
    }
    if (finished.stop_string() != expected.stop_string) {
      return differs("stop string", finished.stop_string(), expected.stop_string);
    }
    if (finished.usage().output_tokens() != expected.tokens.size()) {
      return differs("output_tokens", finished.usage().output_tokens(), expected.tokens.size());
    }
    if (finished.seed() != plan_.request->seed) {
      return differs("seed", finished.seed(), plan_.request->seed);
    }
    if (!expected.stop_string.empty()) ++counts["stop strings"];
    ++counts["finished choices"];
  }
}

void SimClient::OnEnd(SimConnection& connection, const absl::Status& status) {
  if (std::exchange(connection.is_over, true) || connection_.get() != &connection) return;
  if (result_.has_value()) return;
  world_->trace->Note(world_->queue->now(), "client end",
                      {number_, static_cast<int64_t>(status.code())});
  if (progress_.complete()) return End(absl::OkStatus());
  if (status.ok()) return Fail("OK before every choice had finished");
  if (cancelled_) return End(absl::CancelledError(status.message()));
  const auto wait = policy_.AfterLoss(status, progress_.num_new_tokens());
  if (!wait.has_value()) return End(status);
  const auto& body = plan_.request->request;
  if (body.has_timeout_ms() && world_->queue->now() + wait->count() * 1000 >=
                                   plan_.start_at + int64_t{body.timeout_ms()} * 1000) {
    return End(absl::DeadlineExceededError("no time left to connect again"));
  }
  target_ = (target_ + 1) % world_->coordinators.size();
  ++(*world_->counts)["reconnects"];
  world_->queue->At(world_->queue->now() + wait->count() * 1000, [this] { Connect(); });
}

void SimClient::End(const absl::Status& status) {
  if (result_.has_value()) return Fail("a second end");
  result_ = status;
  world_->trace->Note(world_->queue->now(), "result",
                      {number_, static_cast<int64_t>(status.code())});
  ++(*world_->counts)[absl::StrCat("ended ", absl::StatusCodeToString(status.code()))];
  if (status.ok() || plan_.ends.contains(status.code())) return;
  // Nothing tells a request that so many workers died with by chance from one that killed them.
  if (absl::IsFailedPrecondition(status) && world_->quarantine_after > 0 &&
      world_->num_worker_deaths > world_->quarantine_after) {
    ++(*world_->counts)["quarantined by chance"];
    return;
  }
  if (absl::IsUnavailable(status) && world_->queue->now() - last_token_at_ >= kPatienceMicros)
    return;
  Fail(absl::StrCat("ended with ", status.ToString()));
}

}  // namespace quire
