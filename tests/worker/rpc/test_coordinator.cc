#include "tests/worker/rpc/test_coordinator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace quire {

using worker::v1::Finish;
using worker::v1::Load;
using worker::v1::Opened;
using worker::v1::Pong;
using worker::v1::Rejected;
using worker::v1::SessionEvent;
using worker::v1::SessionRequest;

worker::v1::Submit MakeSubmit(uint64_t key, const std::vector<TokenId>& prompt,
                              uint32_t max_new_tokens) {
  worker::v1::Submit submit;
  submit.set_key(key);
  submit.set_request_id("request " + std::to_string(key));
  submit.mutable_prompt_token_ids()->Add(prompt.begin(), prompt.end());
  v1::ResolvedParameters& parameters = *submit.mutable_parameters();
  parameters.set_top_p(1);
  parameters.set_n(1);
  parameters.set_repetition_penalty(1);
  parameters.set_max_new_tokens(max_new_tokens);
  return submit;
}

class TestCoordinator::Connection final : public MessageHandler<SessionEvent> {
 public:
  Connection(TestCoordinator* owner, uint64_t number) : owner_(owner), number_(number) {}
  void OnMessage(SessionEvent event) override { owner_->Take(number_, event); }
  void OnClosed(const absl::Status& status) override { owner_->Lost(number_, status); }

 private:
  TestCoordinator* const owner_;
  const uint64_t number_;
};

TestCoordinator::TestCoordinator(SessionTable* table, std::string id)
    : table_(table), id_(std::move(id)) {}

// Handlers run until their connection is over.
TestCoordinator::~TestCoordinator() { stream_.reset(); }

Opened TestCoordinator::Connect(size_t max_messages) {
  uint64_t number;
  {
    MutexLock lock(mutex_);
    number = ++connection_;
    opened_.reset();
    loss_.reset();
  }
  auto previous = std::move(stream_);  // ends after the new connection has taken over
  stream_ = std::make_unique<Stream>(
      std::make_shared<Connection>(this, number),
      [this](std::shared_ptr<SessionTable::Sink> sink) { return table_->Connect(std::move(sink)); },
      max_messages);
  SessionRequest request;
  request.mutable_open()->set_coordinator_id(id_);
  request.mutable_open()->set_protocol(1);
  request.mutable_open()->set_ends_call(ends_call_);
  Send(std::move(request));
  MutexLock lock(mutex_);
  while (!opened_.has_value()) changed_.Wait(mutex_);
  return *opened_;
}

void TestCoordinator::Cut() {
  {
    MutexLock lock(mutex_);
    ++connection_;
  }
  stream_.reset();
}

bool TestCoordinator::Send(SessionRequest request) {
  return stream_->client_sink()->Write(std::move(request));
}

void TestCoordinator::Expect(const worker::v1::Submit& submit) {
  MutexLock lock(mutex_);
  Request& request = requests_[submit.key()];
  request.attempt = submit.attempt();
  request.rejection.reset();
  request.choices.resize(submit.parameters().n());
  for (int i = 0; i < submit.emitted_size() && i < static_cast<int>(request.choices.size()); ++i) {
    const auto& emitted = submit.emitted(i).emitted_token_ids();
    request.choices[i].tokens.assign(emitted.begin(), emitted.end());
  }
}

void TestCoordinator::Submit(const worker::v1::Submit& submit) {
  Expect(submit);
  SessionRequest request;
  *request.mutable_submit() = submit;
  Send(std::move(request));
}

void TestCoordinator::Cancel(uint64_t key) {
  SessionRequest request;
  request.mutable_cancel()->set_key(key);
  Send(std::move(request));
}

void TestCoordinator::CancelChoice(uint64_t key, uint32_t choice, uint32_t stop_index) {
  SessionRequest request;
  request.mutable_cancel()->set_key(key);
  request.mutable_cancel()->set_choice(choice);
  request.mutable_cancel()->set_stop_index(stop_index);
  Send(std::move(request));
}

void TestCoordinator::Reclaim(uint64_t key) {
  SessionRequest message;
  {
    MutexLock lock(mutex_);
    Request& request = requests_[key];
    request.rejection.reset();
    message.mutable_reclaim()->set_key(key);
    message.mutable_reclaim()->set_attempt(request.attempt);
    for (Choice& choice : request.choices) {
      message.mutable_reclaim()->add_next_index(static_cast<uint32_t>(choice.tokens.size()));
      choice.finish.reset();
    }
  }
  Send(std::move(message));
}

void TestCoordinator::WaitForTokens(uint64_t key, size_t count, uint32_t choice) {
  MutexLock lock(mutex_);
  while (requests_.at(key).choices.at(choice).tokens.size() < count) changed_.Wait(mutex_);
}

Finish TestCoordinator::WaitForFinish(uint64_t key, uint32_t choice) {
  MutexLock lock(mutex_);
  const Choice& awaited = requests_.at(key).choices.at(choice);
  while (!awaited.finish.has_value()) changed_.Wait(mutex_);
  return *awaited.finish;
}

Rejected TestCoordinator::WaitForRejection(uint64_t key) {
  MutexLock lock(mutex_);
  Request& request = requests_[key];
  while (!request.rejection.has_value()) changed_.Wait(mutex_);
  return *request.rejection;
}

std::optional<Rejected> TestCoordinator::WaitForEnd(uint64_t key) {
  MutexLock lock(mutex_);
  const Request& request = requests_.at(key);
  const auto ended = [&request] {
    return request.rejection.has_value() ||
           std::all_of(request.choices.begin(), request.choices.end(),
                       [](const Choice& choice) { return choice.finish.has_value(); });
  };
  while (!ended()) changed_.Wait(mutex_);
  return request.rejection;
}

Pong TestCoordinator::WaitForPong() {
  MutexLock lock(mutex_);
  while (!pong_.has_value()) changed_.Wait(mutex_);
  return *std::exchange(pong_, std::nullopt);
}

void TestCoordinator::WaitForClosing() {
  MutexLock lock(mutex_);
  while (!is_closing_) changed_.Wait(mutex_);
}

void TestCoordinator::Sync() {
  SessionRequest request;
  request.mutable_ping();
  Send(std::move(request));
  WaitForPong();
}

absl::Status TestCoordinator::WaitForLoss() {
  MutexLock lock(mutex_);
  while (!loss_.has_value()) changed_.Wait(mutex_);
  return *loss_;
}

void TestCoordinator::WaitForLoads(uint64_t count) {
  MutexLock lock(mutex_);
  while (num_loads_ < count) changed_.Wait(mutex_);
}

uint64_t TestCoordinator::num_loads() {
  MutexLock lock(mutex_);
  return num_loads_;
}

Load TestCoordinator::WaitForIdle() {
  {
    MutexLock lock(mutex_);
    load_.reset();
  }
  table_->Tick();
  MutexLock lock(mutex_);
  while (!load_.has_value() || load_->running() + load_->waiting() > 0) changed_.Wait(mutex_);
  return *load_;
}

std::vector<TokenId> TestCoordinator::tokens(uint64_t key, uint32_t choice) {
  MutexLock lock(mutex_);
  return requests_.at(key).choices.at(choice).tokens;
}

bool TestCoordinator::finished(uint64_t key, uint32_t choice) {
  MutexLock lock(mutex_);
  return requests_.at(key).choices.at(choice).finish.has_value();
}

void TestCoordinator::Take(uint64_t connection, const SessionEvent& event) {
  MutexLock lock(mutex_);
  if (connection != connection_) return;
  switch (event.event_case()) {
    case SessionEvent::kOpened:
      opened_ = event.opened();
      break;
    case SessionEvent::kStepOutput:
      TakeStep(event.step_output());
      break;
    case SessionEvent::kRejected: {
      Request& request = requests_[event.rejected().key()];
      if (request.attempt == event.rejected().attempt()) request.rejection = event.rejected();
      break;
    }
    case SessionEvent::kLoad:
      load_ = event.load();
      ++num_loads_;
      break;
    case SessionEvent::kPong:
      pong_ = event.pong();
      break;
    case SessionEvent::kClosing:
      is_closing_ = true;
      break;
    case SessionEvent::EVENT_NOT_SET:
      ADD_FAILURE() << "an empty event";
      break;
  }
  changed_.NotifyAll();
}

void TestCoordinator::TakeStep(const worker::v1::StepOutput& output) {
  int next_token = 0;
  for (int i = 0; i < output.key_size(); ++i) {
    const uint32_t num_tokens = output.num_tokens_size() > 0 ? output.num_tokens(i) : 1;
    const uint32_t choice = output.choice_size() > 0 ? output.choice(i) : 0;
    Request& request = requests_.at(output.key(i));
    if (output.attempt(i) == request.attempt) {
      Choice& to = request.choices.at(choice);
      EXPECT_EQ(output.first_index(i), to.tokens.size()) << "request " << output.key(i);
      EXPECT_FALSE(to.finish.has_value()) << "a token after the end of request " << output.key(i);
      to.tokens.insert(to.tokens.end(), output.token_ids().begin() + next_token,
                       output.token_ids().begin() + next_token + static_cast<int>(num_tokens));
    }
    next_token += static_cast<int>(num_tokens);
  }
  EXPECT_EQ(next_token, output.token_ids_size());
  for (const worker::v1::EntryLogprobs& entry : output.logprobs()) {
    if (entry.prompt_size() == 0) continue;
    std::vector<int>& parts = requests_.at(entry.key()).prompt_logprobs;
    const int known = std::accumulate(parts.begin(), parts.end(), 0);
    EXPECT_EQ(entry.first_prompt_position(), static_cast<uint32_t>(known) + 1);
    parts.push_back(entry.prompt_size());
  }
  for (const Finish& finish : output.finishes()) {
    Request& request = requests_.at(finish.key());
    if (finish.attempt() != request.attempt) continue;
    Choice& choice = request.choices.at(finish.choice());
    EXPECT_FALSE(choice.finish.has_value()) << "request " << finish.key() << " ended twice";
    choice.finish = finish;
  }
}

std::vector<int> TestCoordinator::prompt_logprobs(uint64_t key) {
  MutexLock lock(mutex_);
  return requests_.at(key).prompt_logprobs;
}

void TestCoordinator::Lost(uint64_t connection, const absl::Status& status) {
  MutexLock lock(mutex_);
  if (connection != connection_) return;
  loss_ = status;
  changed_.NotifyAll();
}

}  // namespace quire
