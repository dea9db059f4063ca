#ifndef QUIRE_CLIENTS_CPP_STREAM_PROGRESS_H_
#define QUIRE_CLIENTS_CPP_STREAM_PROGRESS_H_

#include <quire/v1/inference.pb.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quire {

// What a client has of one generation, whatever connections brought it.
//
// Each event goes through Accept, which leaves in it only what is new. Indices must be contiguous
// and a delivered token never changes: an event that breaks this is DATA_LOSS. After a lost
// connection, resume() says where the next one goes on. Not thread safe.
class StreamProgress {
 public:
  // `resume` is the request's own: tokens that the caller had before.
  explicit StreamProgress(const v1::Resume& resume);

  // A connection begins. Its server goes on after the tokens of resume(), or repeats from where
  // this generation began.
  void BeginConnection();

  // Cuts the event down to what is new. False: nothing is.
  //
  // Finished with ABORTED is held back, since the choice can go on elsewhere: TakeAborted has it.
  absl::StatusOr<bool> Accept(v1::GenerateEvent* event);

  // The tokens had so far, as a request carries them.
  v1::Resume resume() const;

  // Whether any event has come; whether every choice has its Finished.
  bool started() const { return accepted_.has_value(); }
  bool complete() const;
  // Tokens that came since the start, over all choices: it grows as long as the stream gets on.
  uint64_t num_new_tokens() const { return num_new_tokens_; }

  // The aborted ends of choices that did not end otherwise, each once.
  std::vector<v1::Finished> TakeAborted();

 private:
  struct Choice {
    std::vector<uint32_t> token_ids;  // all of them, those of the request's resume first
    size_t num_given = 0;             // how many of token_ids the request's resume brought
    size_t num_text_bytes = 0;        // of text delivered
    size_t num_prompt_logprobs = 0;
    bool finished = false;
    std::optional<v1::Finished> aborted;
    // Of this connection: the index and the text position of what comes next. Empty before its
    // first.
    std::optional<size_t> next_index;
    size_t text_position = 0;
  };

  absl::StatusOr<bool> AcceptAccepted(const v1::Accepted& accepted);
  absl::StatusOr<bool> AcceptDelta(v1::Delta* delta);
  absl::StatusOr<bool> AcceptFinished(v1::Finished* finished);
  absl::StatusOr<Choice*> FindChoice(uint32_t index);
  // Cuts the part of `text` that was delivered before.
  // Cut off what was delivered already.
  static absl::Status CutPromptLogprobs(Choice* choice, v1::Delta* delta);
  static void CutText(Choice* choice, std::string* text);

  std::vector<Choice> choices_;
  std::optional<v1::Accepted> accepted_;
  uint64_t num_new_tokens_ = 0;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CPP_STREAM_PROGRESS_H_
