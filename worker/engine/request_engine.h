#ifndef QUIRE_WORKER_ENGINE_REQUEST_ENGINE_H_
#define QUIRE_WORKER_ENGINE_REQUEST_ENGINE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "scheduler/sequence.h"
#include "worker/engine/engine.h"

namespace quire {

// The engine over any sequence scheduler: requests become sequences, one a choice, and what happens
// to sequences becomes the output of requests. What runs when is the scheduler's alone.
class RequestEngine final : public Engine {
 public:
  struct Options {
    uint32_t context_length = 0;  // tokens
    uint32_t vocabulary_size = 0;
  };
  RequestEngine(const Options& options, std::unique_ptr<SequenceScheduler> scheduler);

  absl::Status Submit(EngineRequest request, Micros now) override;
  void Cancel(RequestKey key, std::optional<uint32_t> choice, std::optional<uint32_t> stop_index,
              Micros now) override;
  bool Plan(Micros now, StepPlan* plan) override;
  void Settle(StepResult& result, Micros now) override;
  void TakeOutput(EngineOutput* output) override;
  EngineLoad load() const override;

 private:
  struct Choice {
    RequestKey key;
    uint32_t attempt = 0;
    uint32_t choice = 0;
  };
  static constexpr SequenceTag kNoTag = ~SequenceTag{0};

  absl::Status Validate(const EngineRequest& request) const;
  // Reports a choice whose emitted tokens end it already. False: they do not.
  bool FinishIfComplete(const EngineRequest& request, uint32_t choice);
  SequenceTag NewTag();
  // Turns events_ into output_, and forgets what finished.
  void TranslateEvents();

  const Options options_;
  std::unique_ptr<SequenceScheduler> scheduler_;
  // Tags of a request's choices, by choice; kNoTag for those that do not run (any more).
  absl::flat_hash_map<RequestKey, std::vector<SequenceTag>> requests_;
  std::vector<Choice> choices_;  // by tag
  std::vector<SequenceTag> free_tags_;
  SequenceEvents events_;  // empty between calls
  EngineOutput output_;
  uint64_t output_tokens_ = 0;
};

}  // namespace quire

#endif  // QUIRE_WORKER_ENGINE_REQUEST_ENGINE_H_
