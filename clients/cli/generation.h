#ifndef QUIRE_CLIENTS_CLI_GENERATION_H_
#define QUIRE_CLIENTS_CLI_GENERATION_H_

#include <quire/v1/inference.pb.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "clients/cpp/generate_handler.h"

namespace quire {

// Collects one generation whole, with the times that the client saw.
//
// Filled by the client library's threads; to be read by others after ClientStream::Wait.
class Generation final : public GenerateHandler {
 public:
  struct Choice {
    uint32_t first_index = 0;  // of token_ids, above 0 where the request resumed
    std::vector<uint32_t> token_ids;
    std::string text;
    std::vector<v1::TokenLogprobs> logprobs;
    std::vector<v1::TokenLogprobs> prompt_logprobs;
    std::optional<v1::Finished> finished;
  };

  // `on_text`: called with each piece of choice 0's text as it comes; may be null.
  explicit Generation(std::function<void(const std::string&)> on_text = nullptr);

  void OnAccepted(const v1::Accepted& accepted) override;
  void OnDelta(const v1::Delta& delta) override;
  void OnNotice(const v1::Notice& notice) override;
  void OnFinished(const v1::Finished& finished) override;
  void OnReconnect(const absl::Status& why, const std::string& target) override;

  const std::optional<v1::Accepted>& accepted() const { return accepted_; }
  const std::vector<Choice>& choices() const { return choices_; }
  // Notices of the server and lost connections, in words.
  const std::vector<std::string>& notices() const { return notices_; }
  uint64_t num_tokens() const;

  // Milliseconds from the start to the first token; empty if none came.
  std::optional<double> ttft_ms() const;
  // Tokens a second after the first ones, over all choices; empty where time cannot tell.
  std::optional<double> tokens_per_s() const;

  // The object that `quire generate --json` prints (docs/api.md). REQUIRES: accepted.
  nlohmann::ordered_json ToJson() const;

 private:
  Choice& At(uint32_t choice);

  const std::function<void(const std::string&)> on_text_;
  const int64_t started_micros_;
  std::optional<int64_t> first_token_micros_;
  int64_t last_token_micros_ = 0;
  uint64_t num_first_tokens_ = 0;  // those of the message that brought the first one
  std::optional<v1::Accepted> accepted_;
  std::vector<Choice> choices_;
  std::vector<std::string> notices_;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_GENERATION_H_
