// The requests that a link carries, and what its worker says of them.
#include "coordinator/worker_client/worker_link.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/request_fields.h"
#include "common/rpc_status.h"

namespace quire {

using worker::v1::SessionRequest;
using worker::v1::StepOutput;

namespace {

// What a worker says of a failure, made fit for a client: an error, with words.
absl::Status FailureOf(int32_t code, const std::string& message) {
  constexpr int32_t kLastCode = 16;  // UNAUTHENTICATED
  if (code <= 0 || code > kLastCode) {
    return absl::InternalError(
        absl::StrCat("the worker failed with the unknown status ", code, ": ", message));
  }
  return absl::Status(static_cast<absl::StatusCode>(code),
                      message.empty() ? "the worker gave no reason" : message);
}

// The end of a choice: as the worker says it, or a failure where it says neither how it ended nor
// why.
worker::v1::Finish Checked(const worker::v1::Finish& finish) {
  const bool failed = finish.status_code() != 0;
  const bool ended =
      finish.reason() == v1::Finished::STOP || finish.reason() == v1::Finished::LENGTH;
  if (ended && !failed) return finish;
  const absl::Status status = FailureOf(finish.status_code(), finish.status_message());
  worker::v1::Finish checked = finish;
  checked.set_reason(v1::Finished::ABORTED);
  checked.set_status_code(static_cast<int32_t>(status.code()));
  checked.set_status_message(std::string(status.message()));
  return checked;
}

// The names in a Load, of which a worker sends so many at most, and of tenants that requests can
// name.
void Bound(google::protobuf::RepeatedPtrField<std::string>* tenants) {
  constexpr int kMaxTenants = 64;
  if (tenants->size() > kMaxTenants) {
    tenants->DeleteSubrange(kMaxTenants, tenants->size() - kMaxTenants);
  }
  tenants->erase(
      std::remove_if(tenants->begin(), tenants->end(),
                     [](const std::string& tenant) { return tenant.size() > kMaxNameBytes; }),
      tenants->end());
}

}  // namespace

WorkerLink::Taken WorkerLink::TakeRequests() {
  Taken taken(std::make_move_iterator(requests_.begin()), std::make_move_iterator(requests_.end()));
  std::sort(taken.begin(), taken.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  requests_.clear();
  num_sequences_ = 0;
  return taken;
}

void WorkerLink::WriteCancel(uint64_t key, WorkerConnector::Sink* sink) {
  SessionRequest message;
  message.mutable_cancel()->set_key(key);
  sink->Write(std::move(message));
}

bool WorkerLink::Submit(worker::v1::Submit submit, std::shared_ptr<TokenReceiver> receiver) {
  const uint64_t key = submit.key();
  std::shared_ptr<WorkerConnector::Sink> sink;
  SessionRequest message;
  {
    MutexLock lock(mutex_);
    if (!opened_ || sink_ == nullptr) return false;
    sink = sink_;
    Request& request = requests_[key];
    num_sequences_ -= request.num_running;  // of an attempt before, whose end did not come
    request.receiver = std::move(receiver);
    request.attempt = submit.attempt();
    request.num_running = submit.parameters().n();
    request.running = (1u << submit.parameters().n()) - 1;
    for (int i = 0; i < submit.choice_finished_size(); ++i) {
      if (!submit.choice_finished(i)) continue;
      request.running &= ~(1u << i);
      --request.num_running;
    }
    num_sequences_ += request.num_running;
  }
  *message.mutable_submit() = std::move(submit);
  // A failure ends the session, and with it the request, by OnClosed.
  sink->Write(std::move(message));
  bool is_gone = false;
  {
    MutexLock lock(mutex_);
    is_gone = !requests_.contains(key);
  }
  // Taken away meanwhile, by a Cancel that may have come before this, or at its end already.
  if (is_gone) WriteCancel(key, sink.get());
  return true;
}

void WorkerLink::Cancel(worker::v1::Cancel cancel) {
  std::shared_ptr<WorkerConnector::Sink> sink;
  {
    MutexLock lock(mutex_);
    if (sink_ == nullptr || !requests_.contains(cancel.key())) return;
    sink = sink_;
  }
  SessionRequest message;
  *message.mutable_cancel() = std::move(cancel);
  sink->Write(std::move(message));
}

std::shared_ptr<TokenReceiver> WorkerLink::Receiver(uint64_t key, uint32_t attempt) {
  const auto found = requests_.find(key);
  if (found == requests_.end() || found->second.attempt != attempt) return nullptr;
  return found->second.receiver;
}

void WorkerLink::OnLoad(uint64_t session, const worker::v1::Load& load) {
  std::map<uint64_t, std::pair<std::shared_ptr<TokenReceiver>, uint32_t>> receivers;  // by key
  {
    MutexLock lock(mutex_);
    if (session != session_) return;
    const bool starts_draining = load.draining() && !load_.draining();
    load_ = load;
    load_.DiscardUnknownFields();
    Bound(load_.mutable_tenants_over_share());
    if (starts_draining) {
      for (const auto& [key, request] : requests_) {
        receivers.emplace(key, std::pair(request.receiver, request.attempt));
      }
    }
  }
  for (const auto& [key, receiver] : receivers) receiver.first->OnWorkerDraining(receiver.second);
}

void WorkerLink::OnStepOutput(const StepOutput& output) {
  const int num_entries = output.key_size();
  if (output.attempt_size() != num_entries || output.first_index_size() != num_entries ||
      (output.choice_size() != 0 && output.choice_size() != num_entries) ||
      (output.num_tokens_size() != 0 && output.num_tokens_size() != num_entries)) {
    LogError(absl::StrCat("worker at ", address_, " sent arrays that do not match: ignored"));
    return;
  }
  std::vector<std::shared_ptr<TokenReceiver>> entries(num_entries);
  std::vector<std::shared_ptr<TokenReceiver>> logprobs;
  std::vector<std::shared_ptr<TokenReceiver>> notices;
  std::vector<std::shared_ptr<TokenReceiver>> finishes;
  {
    MutexLock lock(mutex_);
    for (int i = 0; i < num_entries; ++i) entries[i] = Receiver(output.key(i), output.attempt(i));
    const auto any_attempt = [this](uint64_t key) QUIRE_REQUIRES(mutex_) {
      const auto found = requests_.find(key);
      return found == requests_.end() ? nullptr : found->second.receiver;
    };
    for (const auto& entry : output.logprobs()) logprobs.push_back(any_attempt(entry.key()));
    for (const auto& entry : output.notices()) notices.push_back(any_attempt(entry.key()));
    for (const auto& finish : output.finishes()) {
      finishes.push_back(Receiver(finish.key(), finish.attempt()));
      const auto found = requests_.find(finish.key());
      if (finishes.back() == nullptr) continue;
      const uint32_t bit = finish.choice() < 32 ? 1u << finish.choice() : 0;
      if ((found->second.running & bit) == 0) {  // it has no such choice, or that has ended
        finishes.back() = nullptr;
        continue;
      }
      found->second.running &= ~bit;
      --num_sequences_;
      if (--found->second.num_running == 0) requests_.erase(found);
    }
  }
  std::map<std::pair<uint64_t, uint32_t>, const worker::v1::EntryLogprobs*> of_tokens;
  for (int i = 0; i < output.logprobs_size(); ++i) {
    const worker::v1::EntryLogprobs& entry = output.logprobs(i);
    if (logprobs[i] == nullptr) continue;
    if (entry.prompt_size() > 0) logprobs[i]->OnPromptLogprobs(entry);
    if (entry.output_size() > 0) of_tokens.emplace(std::pair(entry.key(), entry.choice()), &entry);
  }
  int first_token = 0;
  for (int i = 0; i < num_entries; ++i) {
    const uint32_t choice = output.choice_size() == 0 ? 0 : output.choice(i);
    const uint32_t num_tokens = output.num_tokens_size() == 0 ? 1 : output.num_tokens(i);
    if (num_tokens > static_cast<uint32_t>(output.token_ids_size() - first_token)) {
      LogError(absl::StrCat("worker at ", address_, " sent fewer token ids than it announced"));
      break;
    }
    if (entries[i] != nullptr) {
      const auto found = of_tokens.find({output.key(i), choice});
      entries[i]->OnTokens(output.attempt(i), choice, output.first_index(i),
                           absl::MakeSpan(output.token_ids().data() + first_token, num_tokens),
                           found == of_tokens.end() ? nullptr : found->second);
    }
    first_token += static_cast<int>(num_tokens);
  }
  for (int i = 0; i < output.notices_size(); ++i) {
    if (notices[i] != nullptr) notices[i]->OnNotice(output.notices(i).notice());
  }
  for (int i = 0; i < output.finishes_size(); ++i) {
    if (finishes[i] != nullptr) finishes[i]->OnFinish(Checked(output.finishes(i)));
  }
  for (const auto* group : {&entries, &logprobs, &notices, &finishes}) {
    for (const auto& receiver : *group) {
      if (receiver != nullptr) receiver->OnMessageEnd();
    }
  }
}

void WorkerLink::OnRejected(const worker::v1::Rejected& rejected) {
  std::shared_ptr<TokenReceiver> receiver;
  {
    MutexLock lock(mutex_);
    receiver = Receiver(rejected.key(), rejected.attempt());
    if (receiver == nullptr) return;
    const auto found = requests_.find(rejected.key());
    num_sequences_ -= found->second.num_running;
    requests_.erase(found);
  }
  absl::Status status = FailureOf(rejected.status_code(), rejected.status_message());
  if (rejected.retry_after_ms() > 0) status = WithRetryDelay(status, rejected.retry_after_ms());
  receiver->OnRejected(rejected.attempt(), status);
}

}  // namespace quire
