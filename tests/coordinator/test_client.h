#ifndef QUIRE_TESTS_COORDINATOR_TEST_CLIENT_H_
#define QUIRE_TESTS_COORDINATOR_TEST_CLIENT_H_

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "coordinator/stream/request_stream.h"
#include "worker/device/fake/fake_executor.h"

namespace quire {

// A client that takes every event as it comes, unless it is told not to read.
class TestClient final : public ClientSink, public std::enable_shared_from_this<TestClient> {
 public:
  explicit TestClient(std::shared_ptr<RequestStream> stream, ResumeTokens resume = {})
      : stream_(std::move(stream)) {
    cursor_.resume = std::move(resume);
  }

  void Kick() override {
    bool has_ended = false;
    {
      MutexLock lock(mutex_);
      while (reads_ && !status_.has_value()) {
        v1::GenerateEvent event;
        absl::Status status;
        const RequestStream::Taken taken = stream_->Take(&cursor_, &event, &status);
        if (taken == RequestStream::Taken::kNothing) break;
        if (taken == RequestStream::Taken::kEnd) {
          status_ = status;
          has_ended = true;
        } else {
          Record(event);
        }
      }
      changed_.NotifyAll();
    }
    // As a call does when it ends: the stream lets go of its client.
    if (has_ended) stream_->ClientGone(this);
  }
  void Abort(const absl::Status& status) override {
    MutexLock lock(mutex_);
    if (!status_.has_value()) status_ = status;
    changed_.NotifyAll();
  }

  void SetReads(bool reads) {
    {
      MutexLock lock(mutex_);
      reads_ = reads;
    }
    Kick();
  }
  absl::Status WaitForEnd() {
    MutexLock lock(mutex_);
    while (!status_.has_value()) changed_.Wait(mutex_);
    return *status_;
  }
  void WaitForTokens(size_t count) {
    MutexLock lock(mutex_);
    while (tokens_[0].size() < count && !status_.has_value()) changed_.Wait(mutex_);
  }
  std::vector<uint32_t> tokens(uint32_t choice = 0) {
    MutexLock lock(mutex_);
    return tokens_[choice];
  }
  std::string text(uint32_t choice = 0) {
    MutexLock lock(mutex_);
    return text_[choice];
  }
  std::vector<v1::Notice> notices() {
    MutexLock lock(mutex_);
    return notices_;
  }
  std::map<uint32_t, v1::Finished> finished() {
    MutexLock lock(mutex_);
    return finished_;
  }
  v1::Accepted accepted() {
    MutexLock lock(mutex_);
    return accepted_;
  }
  size_t num_deltas() {
    MutexLock lock(mutex_);
    return num_deltas_;
  }
  uint32_t first_index() {
    MutexLock lock(mutex_);
    return first_index_;
  }
  uint32_t num_prompt_logprobs() {
    MutexLock lock(mutex_);
    return num_prompt_logprobs_;
  }

 private:
  void Record(const v1::GenerateEvent& event) QUIRE_REQUIRES(mutex_) {
    if (event.has_accepted()) accepted_ = event.accepted();
    if (event.has_notice()) notices_.push_back(event.notice());
    if (event.has_delta()) {
      const v1::Delta& delta = event.delta();
      std::vector<uint32_t>& tokens = tokens_[delta.choice()];
      if (tokens.empty()) first_index_ = delta.first_index();
      EXPECT_EQ(delta.first_index(), first_index_ + tokens.size()) << "a gap or a repeat";
      EXPECT_FALSE(finished_.contains(delta.choice())) << "tokens after the end";
      tokens.insert(tokens.end(), delta.token_ids().begin(), delta.token_ids().end());
      text_[delta.choice()] += delta.text();
      for (int i = 0; i < delta.logprobs_size(); ++i) {
        EXPECT_EQ(
            delta.logprobs(i).logprob(),
            FakeExecutor::LogprobAt(accepted_.prompt_token_count() + delta.first_index() + i));
      }
      if (delta.prompt_logprobs_size() > 0) {
        EXPECT_TRUE(tokens.empty()) << "prompt log-probabilities after a token";
        EXPECT_LE(delta.prompt_logprobs_size(), 4096);
        EXPECT_EQ(delta.first_prompt_position(), num_prompt_logprobs_ + 1);
      }
      for (const v1::TokenLogprobs& entry : delta.prompt_logprobs()) {
        EXPECT_EQ(entry.logprob(), FakeExecutor::LogprobAt(++num_prompt_logprobs_));
      }
      ++num_deltas_;
    }
    if (event.has_finished()) {
      EXPECT_FALSE(finished_.contains(event.finished().choice())) << "finished twice";
      finished_[event.finished().choice()] = event.finished();
      text_[event.finished().choice()] += event.finished().text();
    }
  }

  const std::shared_ptr<RequestStream> stream_;
  Mutex mutex_;
  CondVar changed_;
  RequestStream::Cursor cursor_ QUIRE_GUARDED_BY(mutex_);
  bool reads_ QUIRE_GUARDED_BY(mutex_) = true;
  v1::Accepted accepted_ QUIRE_GUARDED_BY(mutex_);
  std::map<uint32_t, std::vector<uint32_t>> tokens_ QUIRE_GUARDED_BY(mutex_);
  std::map<uint32_t, std::string> text_ QUIRE_GUARDED_BY(mutex_);
  std::map<uint32_t, v1::Finished> finished_ QUIRE_GUARDED_BY(mutex_);
  std::vector<v1::Notice> notices_ QUIRE_GUARDED_BY(mutex_);
  size_t num_deltas_ QUIRE_GUARDED_BY(mutex_) = 0;
  uint32_t num_prompt_logprobs_ QUIRE_GUARDED_BY(mutex_) = 0;
  uint32_t first_index_ QUIRE_GUARDED_BY(mutex_) = 0;
  std::optional<absl::Status> status_ QUIRE_GUARDED_BY(mutex_);
};

}  // namespace quire

#endif  // QUIRE_TESTS_COORDINATOR_TEST_CLIENT_H_
