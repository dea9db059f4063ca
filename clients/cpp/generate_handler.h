#ifndef QUIRE_CLIENTS_CPP_GENERATE_HANDLER_H_
#define QUIRE_CLIENTS_CPP_GENERATE_HANDLER_H_

#include <quire/v1/inference.pb.h>

#include <string>

#include "absl/status/status.h"

namespace quire {

// Receives one generation, as if one connection had brought it: nothing comes twice.
//
// Calls come one at a time, in order, from threads of the client library; OnEnd is the last one and
// always comes. A handler that takes long slows its own stream, and holds one of the library's few
// threads: hand work over where there are many streams.
class GenerateHandler {
 public:
  virtual ~GenerateHandler() = default;
  virtual void OnAccepted(const v1::Accepted& accepted) {}
  // first_index tells where its tokens belong in the choice's output.
  virtual void OnDelta(const v1::Delta& delta) {}
  virtual void OnNotice(const v1::Notice& notice) {}
  // One for each choice. ABORTED ones come only when nothing more will.
  virtual void OnFinished(const v1::Finished& finished) {}
  // The connection was lost or refused for `why`; the call goes on at `target`.
  virtual void OnReconnect(const absl::Status& why, const std::string& target) {}
  // OK: every choice has finished. Otherwise the server's words, its field and retry delay
  // (common/rpc_status.h), or DATA_LOSS for a stream that broke the protocol.
  virtual void OnEnd(const absl::Status& status) {}
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CPP_GENERATE_HANDLER_H_
