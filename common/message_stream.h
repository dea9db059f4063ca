#ifndef QUIRE_COMMON_MESSAGE_STREAM_H_
#define QUIRE_COMMON_MESSAGE_STREAM_H_

#include <memory>

#include "absl/status/status.h"

// A two-way stream of messages, without the transport. The logic of sessions, of the registry and
// of request streams is written against these, so that ThreadSanitizer can run it over an
// in-process transport and the gRPC edges stay thin.
namespace quire {

// The sending side. Thread safe.
template <typename Out>
class MessageSink {
 public:
  virtual ~MessageSink() = default;
  // Queues a message behind those not yet sent. False: the stream is over, or its outbox is full
  // and the stream is being ended for that; the message is lost. Never waits.
  virtual bool Write(Out message) = 0;
  // Ends the stream with a status. Messages already queued are sent first where the status is OK.
  virtual void Close(absl::Status status) = 0;
};

// The receiving side. Calls come one at a time, in order, and never from within a Write or Close,
// so those may be called with locks held. OnClosed is the last one, and comes exactly once, also
// after the sink's own Close.
template <typename In>
class MessageHandler {
 public:
  virtual ~MessageHandler() = default;
  virtual void OnMessage(In message) = 0;
  virtual void OnClosed(const absl::Status& status) = 0;
};

}  // namespace quire

#endif  // QUIRE_COMMON_MESSAGE_STREAM_H_
