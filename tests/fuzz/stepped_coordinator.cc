#include "tests/fuzz/stepped_coordinator.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "common/rpc_status.h"
#include "coordinator/rpc/prepare.h"
#include "coordinator/rpc/validate.h"
#include "tests/fuzz/fuzz.h"
#include "tests/text/small_tokenizers.h"

namespace quire {
namespace {

ModelFiles MakeFiles() {
  return {{"config.json", R"({"eos_token_id": [5, 77]})"},
          {"tokenizer.json", SmallTokenizers().front().json.dump()},
          {"chat_template.jinja",
           "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.tool_calls is defined %}"
           "{{ m.tool_calls | tojson }}{% endif %}{% endfor %}{% if tools %}{{ tools | tojson }}"
           "{% endif %}{% if add_generation_prompt %}<a>{% endif %}"}};
}

}  // namespace

class SteppedCoordinator::Sink final : public WorkerConnector::Sink {
 public:
  explicit Sink(std::shared_ptr<SteppedSession> session) : session_(std::move(session)) {}
  bool Write(worker::v1::SessionRequest message) override {
    MutexLock lock(session_->mutex);
    if (session_->closed.has_value()) return false;
    session_->sent.push_back(std::move(message));
    return true;
  }
  void Close(absl::Status status) override {
    MutexLock lock(session_->mutex);
    if (!session_->closed.has_value()) session_->closed = std::move(status);
  }

 private:
  const std::shared_ptr<SteppedSession> session_;
};

class SteppedCoordinator::Connector final : public WorkerConnector {
 public:
  explicit Connector(SteppedCoordinator* owner) : owner_(owner) {}
  std::shared_ptr<WorkerConnector::Sink> OpenSession(std::shared_ptr<Handler> handler) override {
    auto session = std::make_shared<SteppedSession>();
    session->handler = std::move(handler);
    MutexLock lock(owner_->mutex_);
    owner_->sessions_.push_back(session);
    return std::make_shared<SteppedCoordinator::Sink>(session);
  }
  CancelFetch FetchFiles(const std::string&,
                         std::function<void(absl::StatusOr<ModelFiles>)> done) override {
    static const ModelFiles* const files = new ModelFiles(MakeFiles());
    done(*files);
    return [] {};
  }

 private:
  SteppedCoordinator* const owner_;
};

SteppedCoordinator::SteppedCoordinator()
    : loader_(1, 1000),
      catalog_(ServedModel::Options{}),
      registry_({"c", &timers_, &loader_, &catalog_, nullptr},
                [this](const std::string&) { return std::make_unique<Connector>(this); }),
      placer_(&registry_, &timers_) {
  spdlog::set_level(spdlog::level::off);
  registry_.AddStatic("w:1");
}

std::vector<std::shared_ptr<SteppedSession>> SteppedCoordinator::Sessions() {
  MutexLock lock(mutex_);
  return sessions_;
}

void SteppedCoordinator::DeliverEnds() {
  for (const auto& session : Sessions()) {
    std::optional<absl::Status> closed;
    {
      MutexLock lock(session->mutex);
      closed = session->closed;
    }
    if (!closed.has_value()) continue;
    std::exchange(session->handler, nullptr)
        ->OnClosed(closed->ok() ? absl::UnavailableError("ended") : *closed);
    MutexLock lock(mutex_);
    std::erase(sessions_, session);
  }
}

std::shared_ptr<SteppedSession> SteppedCoordinator::session() {
  DeliverEnds();
  const auto sessions = Sessions();
  return sessions.empty() ? nullptr : sessions.back();
}

void SteppedCoordinator::Connect() {
  // The link's own retry, on the timers' thread, may take the place of the first.
  for (int i = 0; i < 3; ++i) {
    registry_.Find(View().number)->Restart("another input");
    if (session() != nullptr) return;
  }
  QUIRE_FUZZ_CHECK(false, "no session");
}

void SteppedCoordinator::Lose() {
  const auto lost = session();
  if (lost == nullptr) return;
  {
    MutexLock lock(lost->mutex);
    lost->closed = absl::UnavailableError("the connection was lost");
  }
  DeliverEnds();
}

std::deque<worker::v1::SessionRequest> SteppedCoordinator::TakeSent() {
  const auto open = session();
  if (open == nullptr) return {};
  MutexLock lock(open->mutex);
  return std::exchange(open->sent, {});
}

void SteppedCoordinator::Say(const worker::v1::SessionEvent& event) {
  if (const auto open = session()) open->handler->OnMessage(event);
  DeliverEnds();
}

void SteppedCoordinator::WaitForModels() {
  if (View().model != nullptr) return;
  Mutex mutex;
  CondVar done;
  bool is_done = false;
  const bool posted = loader_.Post([&] {
    MutexLock lock(mutex);
    is_done = true;
    done.NotifyAll();
  });
  QUIRE_FUZZ_CHECK(posted, "the loader's queue is full");
  MutexLock lock(mutex);
  while (!is_done) done.Wait(mutex);
}

void SteppedCoordinator::Greet(const worker::v1::WorkerInfo& info) {
  worker::v1::SessionEvent opened;
  opened.mutable_opened()->set_incarnation("first life");
  *opened.mutable_opened()->mutable_worker() = info;
  worker::v1::SessionEvent load;
  load.mutable_load()->set_blocks_free(info.kv().num_blocks());
  load.mutable_load()->set_blocks_total(info.kv().num_blocks());
  // As in Connect: the link's own retry may have opened a session after this one.
  for (int i = 0; i < 3; ++i) {
    Say(opened);
    Say(load);
    WaitForModels();
    // Not READY where the machine stood still for longer than a worker may be silent.
    if (View().model != nullptr) return;
    Connect();
  }
  QUIRE_FUZZ_CHECK(false, View().why);
}

absl::StatusOr<PreparedRequest> SteppedCoordinator::Prepare(const v1::GenerateRequest& request,
                                                            const std::string& request_id) const {
  return PrepareRequest(request, request_id, ResumeOf(request), placer_,
                        /*separate_tenants=*/false);
}

RequestStream::Context SteppedCoordinator::MakeContext() {
  RequestStream::Context context;
  context.placer = &placer_;
  context.timers = &timers_;
  context.move_timeout = 0;  // the only worker that there is
  context.on_end = [](RequestStream&, const RequestRecord&) {};
  return context;
}

// --- The client ---

CheckingClient::CheckingClient(std::shared_ptr<RequestStream> stream, ResumeTokens resume)
    : stream_(std::move(stream)), resume_(std::move(resume)) {
  cursor_.resume = resume_;
}

void CheckingClient::Kick() {
  while (!status_.has_value()) {
    v1::GenerateEvent event;
    absl::Status status;
    const RequestStream::Taken taken = stream_->Take(&cursor_, &event, &status);
    if (taken == RequestStream::Taken::kNothing) return;
    if (taken == RequestStream::Taken::kEvent) {
      Take(event);
      continue;
    }
    status_ = status;
    CheckEnd();
    // As a call does when it ends.
    stream_->ClientGone(this);
  }
}

void CheckingClient::Abort(const absl::Status& status) {
  if (!status_.has_value()) status_ = status;
}

void CheckingClient::Take(const v1::GenerateEvent& event) {
  const std::string shown = event.ShortDebugString();
  QUIRE_FUZZ_CHECK(event.has_accepted() != accepted_.has_value(), "Accepted comes once, first");
  if (event.has_accepted()) {
    accepted_ = event.accepted();
    for (uint32_t i = 0; i < accepted_->parameters().n(); ++i) {
      if (i < resume_.size()) tokens_[i] = resume_[i];
    }
    return;
  }
  const v1::ResolvedParameters& parameters = accepted_->parameters();
  if (event.has_delta()) {
    const v1::Delta& delta = event.delta();
    std::vector<uint32_t>& tokens = tokens_[delta.choice()];
    QUIRE_FUZZ_CHECK(delta.choice() < parameters.n(), shown);
    QUIRE_FUZZ_CHECK(!finished_.contains(delta.choice()), shown);
    QUIRE_FUZZ_CHECK(delta.token_ids().empty() || delta.first_index() == tokens.size(), shown);
    QUIRE_FUZZ_CHECK(IsUtf8(delta.text()), shown);
    QUIRE_FUZZ_CHECK(delta.logprobs_size() <= delta.token_ids_size(), shown);
    tokens.insert(tokens.end(), delta.token_ids().begin(), delta.token_ids().end());
    QUIRE_FUZZ_CHECK(tokens.size() <= parameters.max_new_tokens(), shown);
  }
  if (event.has_finished()) {
    const v1::Finished& finished = event.finished();
    QUIRE_FUZZ_CHECK(finished.choice() < parameters.n(), shown);
    QUIRE_FUZZ_CHECK(finished_.emplace(finished.choice(), finished).second, shown);
    QUIRE_FUZZ_CHECK(
        finished.reason() >= v1::Finished::STOP && finished.reason() <= v1::Finished::ABORTED,
        shown);
    QUIRE_FUZZ_CHECK(IsUtf8(finished.text()) && IsUtf8(finished.stop_string()), shown);
  }
}

void CheckingClient::CheckEnd() const {
  if (!status_->ok()) CheckTold(*status_);
  QUIRE_FUZZ_CHECK(!status_->ok() || accepted_.has_value(), "OK without Accepted");
  if (!accepted_.has_value()) return;
  // Without a Finished for each choice ends what the client resumed with tokens of another request.
  if (!cursor_.resume_checked) return;
  QUIRE_FUZZ_CHECK(finished_.size() == accepted_->parameters().n(), status_->ToString());
  if (!status_->ok()) return;
  for (const auto& [choice, finished] : finished_) {
    QUIRE_FUZZ_CHECK(finished.reason() != v1::Finished::ABORTED, finished.ShortDebugString());
  }
}

void CheckTold(const absl::Status& status) {
  QUIRE_FUZZ_CHECK(!status.message().empty() && IsUtf8(MessageOf(status)), status.ToString());
  const absl::Status told = FromGrpc(ToGrpc(status));
  QUIRE_FUZZ_CHECK(told.code() == status.code(), status.ToString());
  QUIRE_FUZZ_CHECK(IsUtf8(MessageOf(told)) && told.message().size() <= kMaxStatusMessageBytes,
                   MessageOf(told));
}

}  // namespace quire
