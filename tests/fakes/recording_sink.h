#ifndef QUIRE_TESTS_FAKES_RECORDING_SINK_H_
#define QUIRE_TESTS_FAKES_RECORDING_SINK_H_

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/message_stream.h"

namespace quire {

// Keeps what is written to it. Not thread safe.
template <typename Message>
class RecordingSink final : public MessageSink<Message> {
 public:
  bool Write(Message message) override {
    if (before_write) std::exchange(before_write, nullptr)();
    written.push_back(std::move(message));
    return true;
  }
  void Close(absl::Status status) override { closed = std::move(status); }

  std::function<void()> before_write;  // as another thread might come in between; once
  std::vector<Message> written;
  std::optional<absl::Status> closed;
};

}  // namespace quire

#endif  // QUIRE_TESTS_FAKES_RECORDING_SINK_H_
