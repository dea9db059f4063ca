#ifndef QUIRE_COORDINATOR_STREAM_STREAM_OUTPUT_H_
#define QUIRE_COORDINATOR_STREAM_STREAM_OUTPUT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <quire/v1/inference.pb.h>
#include "absl/status/status.h"
#include "coordinator/stream/choice_output.h"
#include "coordinator/stream/resume_tokens.h"

namespace quire {

// Where a client is in a stream.
struct StreamCursor {
  ResumeTokens resume;  // until it is checked
  bool resume_checked = false;
  bool accepted_sent = false;
  size_t notices_sent = 0;
  size_t prompt_logprobs_sent = 0;
  std::vector<uint32_t> next_index;  // by choice
  std::vector<bool> finish_sent;
  uint32_t last_choice = 0;
};

// What a request has put out, from which any client is sent what it does not have. Not thread safe.
struct StreamOutput {
  std::vector<ChoiceOutput> choices;  // none until the request begins
  std::optional<v1::Accepted> accepted;
  std::vector<v1::Notice> notices;
  std::optional<absl::Status> ended;

  enum class Taken { kNothing, kEvent, kEnd };
  // The next event for a client at `cursor`, as large as there is; or the end, with its status.
  Taken Take(StreamCursor* cursor, v1::GenerateEvent* event, absl::Status* status) const;

  // A client with these tokens has more than the stream, which has yet to make them.
  bool IsBehind(const ResumeTokens& resume) const;
  // Whether the stream's tokens begin with these. Otherwise INVALID_ARGUMENT names the first that
  // differs; for tokens that the stream has not, it is the status that the stream ended with, if it
  // failed.
  absl::Status CheckResume(const ResumeTokens& resume) const;

  size_t num_tokens() const;  // of all choices
  bool is_complete() const;   // every choice has finished

 private:
  bool TakePromptLogprobs(StreamCursor* cursor, v1::GenerateEvent* event) const;
  bool TakeDelta(StreamCursor* cursor, v1::GenerateEvent* event) const;
  bool TakeFinish(StreamCursor* cursor, v1::GenerateEvent* event) const;
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_STREAM_STREAM_OUTPUT_H_
