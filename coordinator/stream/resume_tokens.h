#ifndef QUIRE_COORDINATOR_STREAM_RESUME_TOKENS_H_
#define QUIRE_COORDINATOR_STREAM_RESUME_TOKENS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

namespace quire {

// The tokens that a client has already, an entry a choice; missing ones are empty. Copies share the
// tokens, of which a call may hold megabytes. Immutable.
class ResumeTokens {
 public:
  using Choices = std::vector<std::vector<uint32_t>>;

  ResumeTokens() = default;
  // `charge` is held as long as the tokens are: the caller's account of them.
  ResumeTokens(Choices choices, std::shared_ptr<void> charge = nullptr) {  // NOLINT: a conversion
    if (choices.empty()) return;
    held_ = std::make_shared<Held>(Held{std::move(choices), std::move(charge)});
  }

  ResumeTokens(std::initializer_list<std::vector<uint32_t>> choices)
      : ResumeTokens(Choices(choices)) {}

  size_t size() const { return held_ == nullptr ? 0 : held_->choices.size(); }
  bool has_tokens() const {
    return held_ != nullptr &&
           std::any_of(held_->choices.begin(), held_->choices.end(),
                       [](const std::vector<uint32_t>& tokens) { return !tokens.empty(); });
  }
  const std::vector<uint32_t>& operator[](size_t choice) const { return held_->choices[choice]; }
  void clear() { held_.reset(); }

 private:
  struct Held {
    Choices choices;
    std::shared_ptr<void> charge;
  };
  std::shared_ptr<const Held> held_;
};

}  // namespace quire

#endif  // QUIRE_COORDINATOR_STREAM_RESUME_TOKENS_H_
