// The tokens that sessions are sent: each step's, and those that one who reclaims a request missed.
#include "worker/rpc/session_table.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/rpc/convert.h"

namespace quire {

using worker::v1::SessionEvent;

namespace {

// Log-probabilities that one message carries at most: about 1 MiB where each has 20 alternatives,
// of the 16 that a message may have.
constexpr size_t kMaxLogprobsPerMessage = 4096;

void AddEntry(uint64_t key, uint32_t attempt, uint32_t choice, uint32_t first_index,
              std::span<const TokenId> tokens, worker::v1::StepOutput* output) {
  output->add_key(key);
  output->add_attempt(attempt);
  output->add_choice(choice);
  output->add_first_index(first_index);
  output->add_num_tokens(static_cast<uint32_t>(tokens.size()));
  output->mutable_token_ids()->Add(tokens.begin(), tokens.end());
}

// Arrays that say nothing are left out.
void LeaveOutDefaults(worker::v1::StepOutput* output) {
  const auto is_zero = [](uint32_t value) { return value == 0; };
  const auto is_one = [](uint32_t value) { return value == 1; };
  if (std::all_of(output->choice().begin(), output->choice().end(), is_zero))
    output->clear_choice();
  if (std::all_of(output->num_tokens().begin(), output->num_tokens().end(), is_one)) {
    output->clear_num_tokens();
  }
}

}  // namespace

worker::v1::StepOutput& SessionTable::Pending(uint32_t number) {
  Session* session = sessions_.at(number).get();
  if (!session->has_pending) {
    session->has_pending = true;
    session->pending.Clear();
    pending_sessions_.push_back(session);
  }
  return *session->pending.mutable_step_output();
}

void SessionTable::OnOutput(EngineOutput& output) {
  MutexLock lock(mutex_);
  const Micros now = options_.clock();
  for (const EngineOutput::Entry& entry : output.entries) {
    Request* request = Find(entry.key, entry.attempt);
    if (request == nullptr) continue;
    if (request->first_token_at < 0) request->first_token_at = now;
    Choice& choice = request->choices[entry.choice];
    const Micros last = std::exchange(choice.last_token_at, now);
    if (last >= 0 && options_.on_token_gap) options_.on_token_gap(now - last, entry.num_tokens);
    const std::span<const TokenId> tokens(&output.tokens[entry.first_token], entry.num_tokens);
    choice.tokens.insert(choice.tokens.end(), tokens.begin(), tokens.end());
    if (request->orphaned_at.has_value()) continue;
    AddEntry(request->key, request->attempt, entry.choice, entry.first_index, tokens,
             &Pending(entry.key.session));
  }
  for (const EngineOutput::Logprobs& logprobs : output.logprobs) {
    SendPromptLogprobs(output.step, logprobs);
    Request* request = Find(logprobs.key, logprobs.attempt);
    if (request == nullptr || request->orphaned_at.has_value() || logprobs.output.empty()) continue;
    worker::v1::EntryLogprobs& entry = *Pending(logprobs.key.session).add_logprobs();
    entry.set_key(request->key);
    entry.set_choice(logprobs.choice);
    entry.set_first_index(logprobs.first_index);
    for (const TokenLogprobs& token : logprobs.output) *entry.add_output() = ToProto(token);
  }
  for (const EngineOutput::Notice& notice : output.notices) {
    Request* request = Find(notice.key, notice.attempt);
    if (request == nullptr || request->orphaned_at.has_value()) continue;
    worker::v1::EntryNotice& entry = *Pending(notice.key.session).add_notices();
    entry.set_key(request->key);
    entry.mutable_notice()->set_kind(
        notice.kind == NoticeKind::kPreempted ? v1::Notice::PREEMPTED : v1::Notice::RECOMPUTED);
    entry.mutable_notice()->set_why(notice.why);
  }
  for (const ChoiceFinish& finish : output.finishes) {
    Request* request = Find(finish.key, finish.attempt);
    if (request == nullptr) continue;
    Choice& choice = request->choices[finish.choice];
    worker::v1::Finish proto = ToProto(finish);
    proto.set_attempt(request->attempt);
    EndChoice(sessions_.at(finish.key.session).get(), *request, &choice, std::move(proto));
    if (!request->orphaned_at.has_value()) {
      *Pending(finish.key.session).add_finishes() = *choice.finish;
    }
  }
  for (Session* session : pending_sessions_) {
    worker::v1::StepOutput& message = *session->pending.mutable_step_output();
    message.set_step(output.step);
    LeaveOutDefaults(&message);
    session->has_pending = false;
    Send(*session, std::exchange(session->pending, {}));
  }
  pending_sessions_.clear();
  for (const ChoiceFinish& finish : output.finishes) {
    Request* request = Find(finish.key, finish.attempt);
    if (request != nullptr) EraseIfDone(*sessions_.at(finish.key.session), request);
  }
}

void SessionTable::SendPromptLogprobs(uint64_t step, const EngineOutput::Logprobs& logprobs) {
  for (size_t begin = 0; begin < logprobs.prompt.size(); begin += kMaxLogprobsPerMessage) {
    // A connection that took no more has made an orphan of it.
    Request* request = Find(logprobs.key, logprobs.attempt);
    if (request == nullptr || request->orphaned_at.has_value()) return;
    SessionEvent event;
    event.mutable_step_output()->set_step(step);
    worker::v1::EntryLogprobs& entry = *event.mutable_step_output()->add_logprobs();
    entry.set_key(request->key);
    entry.set_choice(logprobs.choice);
    entry.set_first_prompt_position(static_cast<uint32_t>(begin + 1));
    const size_t end = std::min(logprobs.prompt.size(), begin + kMaxLogprobsPerMessage);
    for (size_t i = begin; i < end; ++i) *entry.add_prompt() = ToProto(logprobs.prompt[i]);
    Send(*sessions_.at(logprobs.key.session), std::move(event));
  }
}

void SessionTable::HandleReclaim(const Connection& connection, const worker::v1::Reclaim& reclaim) {
  MutexLock lock(mutex_);
  Session* session = CarriedBy(connection);
  if (session == nullptr) return;
  const auto found = session->requests.find(reclaim.key());
  if (found == session->requests.end() || found->second->attempt != reclaim.attempt()) {
    return Reject(*session, reclaim.key(), reclaim.attempt(),
                  absl::NotFoundError("no such request is alive here"));
  }
  Request* request = found->second.get();
  absl::Status status;
  if (request->has_logprobs) {
    status = absl::FailedPreconditionError("log-probabilities cannot be replayed: submit it again");
  }
  std::vector<uint32_t> next_index(request->choices.size());
  for (uint32_t i = 0; i < next_index.size() && status.ok(); ++i) {
    const Choice& choice = request->choices[i];
    if (static_cast<int>(i) < reclaim.next_index_size()) next_index[i] = reclaim.next_index(i);
    if (next_index[i] < choice.first_index || next_index[i] > choice.next_index()) {
      status = absl::FailedPreconditionError(absl::StrCat(
          "next_index of choice ", i, " is ", next_index[i], "; tokens from ", choice.first_index,
          " to ", choice.next_index(), " are here: submit it again"));
    }
  }
  if (status.ok()) return Adopt(*session, request, next_index);
  Reject(*session, reclaim.key(), reclaim.attempt(), status);
  Drop(*session, request, status, nullptr);
}

void SessionTable::Adopt(Session& session, Request* request,
                         const std::vector<uint32_t>& next_index) {
  request->orphaned_at.reset();
  SessionEvent event;
  worker::v1::StepOutput& output = *event.mutable_step_output();
  for (uint32_t i = 0; i < request->choices.size(); ++i) {
    const Choice& choice = request->choices[i];
    if (next_index[i] < choice.next_index()) {
      const auto begin = choice.tokens.begin() + (next_index[i] - choice.first_index);
      AddEntry(request->key, request->attempt, i, next_index[i], {begin, choice.tokens.end()},
               &output);
    }
    if (choice.finish.has_value()) *output.add_finishes() = *choice.finish;
  }
  if (output.key_size() > 0 || output.finishes_size() > 0) {
    LeaveOutDefaults(&output);
    Send(session, std::move(event));
  }
  EraseIfDone(session, request);
}

}  // namespace quire
