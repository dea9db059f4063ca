#ifndef QUIRE_TESTS_FAKES_RECORDING_HANDLER_H_
#define QUIRE_TESTS_FAKES_RECORDING_HANDLER_H_

#include <gtest/gtest.h>

#include <optional>
#include <utility>
#include <vector>

#include "common/message_stream.h"
#include "common/mutex.h"

namespace quire {

// Keeps what it hears, for a test to wait for; fails the test where the rules of MessageHandler are
// broken. A held one does not return from OnMessage until it is released. Thread safe.
template <typename T>
class RecordingHandler final : public MessageHandler<T> {
 public:
  void OnMessage(T message) override {
    MutexLock lock(mutex_);
    EXPECT_FALSE(closed_.has_value()) << "a message after the end";
    messages_.push_back(std::move(message));
    changed_.NotifyAll();
    while (held_) changed_.Wait(mutex_);
  }
  void OnClosed(const absl::Status& status) override {
    MutexLock lock(mutex_);
    EXPECT_FALSE(closed_.has_value()) << "closed twice";
    closed_ = status;
    changed_.NotifyAll();
  }

  void SetHeld(bool held) {
    MutexLock lock(mutex_);
    held_ = held;
    changed_.NotifyAll();
  }
  // Waits until that many have come, and gives all there are.
  std::vector<T> WaitFor(size_t count) {
    MutexLock lock(mutex_);
    while (messages_.size() < count) changed_.Wait(mutex_);
    return messages_;
  }
  absl::Status WaitForEnd() {
    MutexLock lock(mutex_);
    while (!closed_.has_value()) changed_.Wait(mutex_);
    return *closed_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<T> messages_ QUIRE_GUARDED_BY(mutex_);
  std::optional<absl::Status> closed_ QUIRE_GUARDED_BY(mutex_);
  bool held_ QUIRE_GUARDED_BY(mutex_) = false;
};

}  // namespace quire

#endif  // QUIRE_TESTS_FAKES_RECORDING_HANDLER_H_
