#ifndef QUIRE_WORKER_ENGINE_ENGINE_INBOX_H_
#define QUIRE_WORKER_ENGINE_ENGINE_INBOX_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "worker/engine/engine.h"

namespace quire {

// How other threads reach an engine. Thread safe; nothing here waits for a step.
class EngineInbox {
 public:
  virtual ~EngineInbox() = default;
  // RESOURCE_EXHAUSTED when the mailbox is full. Later refusals come through OnRejected.
  virtual absl::Status PostSubmit(EngineRequest request) = 0;
  // Always taken: post at most one for each choice of a request that was submitted.
  virtual void PostCancel(RequestKey key, std::optional<uint32_t> choice,
                          std::optional<uint32_t> stop_index) = 0;
  // Asks for an OnLoad.
  virtual void PostRequestLoad() = 0;
  // Steps settled so far.
  virtual uint64_t steps() const = 0;
  // Since the last settled step, or since work arrived at an idle engine; 0 while it is idle.
  virtual Micros SinceProgress() const = 0;
};

}  // namespace quire

#endif  // QUIRE_WORKER_ENGINE_ENGINE_INBOX_H_
