#ifndef QUIRE_CLIENTS_CLI_LOAD_GENERATOR_H_
#define QUIRE_CLIENTS_CLI_LOAD_GENERATOR_H_

#include <quire/v1/inference.pb.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "clients/cpp/client.h"
#include "common/mutex.h"

namespace quire {

// One request as the client saw it. Times are of the steady clock, in microseconds.
struct RequestSample {
  absl::Status status;
  int64_t sent = 0;
  int64_t first_token = 0;  // 0: none came
  int64_t last_token = 0;
  std::vector<int64_t> gaps;  // between messages that brought tokens
  uint32_t prompt_tokens = 0;
  std::vector<uint32_t> token_ids;          // of choice 0
  uint32_t output_tokens = 0;               // of all choices
  std::vector<v1::TokenLogprobs> logprobs;  // of choice 0, if asked for
  v1::Usage usage;                          // of choice 0

  double ttft_ms() const { return (first_token - sent) / 1e3; }
  double latency_ms() const { return (last_token - sent) / 1e3; }
  // Time per output token after the first; 0 with fewer than two.
  double tpot_ms() const;
};

// How requests are sent.
struct LoadShape {
  size_t num_requests = 0;
  // Requests that run at once; the next waits until one has ended.
  size_t max_in_flight = std::numeric_limits<size_t>::max();
  // Requests a second, arriving as a Poisson process. Infinite: as soon as max_in_flight lets them.
  double request_rate = std::numeric_limits<double>::infinity();
  uint64_t seed = 0;  // of the arrivals
  // No request begins later than this, but the first max_in_flight always do. Empty: no limit.
  std::optional<std::chrono::milliseconds> begin_within;
};

// Sends many requests at once from one thread: the streams run on the client library's threads, so
// hundreds cost no more than their messages.
class LoadGenerator {
 public:
  struct Progress {
    size_t num_ended = 0;
    size_t num_in_flight = 0;
    uint64_t num_tokens = 0;
  };

  // `make` gives the i-th request. `on_progress`, if not null, is called some times a second, on
  // the thread that runs Run. The client outlives the generator.
  LoadGenerator(Client* client, std::function<v1::GenerateRequest(size_t)> make,
                CallOptions options = {},
                std::function<void(const Progress&)> on_progress = nullptr);

  // Sends the requests and waits for their ends. One record for each that was sent, in order.
  // REQUIRES: called once.
  std::vector<RequestSample> Run(const LoadShape& shape);

  // Makes Run send no more and cancels what runs. Thread safe.
  void Interrupt();

 private:
  class Recorder;

  // Waits until the next request may be sent. False: no more are to be.
  bool WaitForTurn(const LoadShape& shape, size_t index, int64_t due, int64_t last_begin);
  // One wait for a change, at most until `deadline` and the next report of progress.
  void WaitForChange(int64_t deadline) QUIRE_REQUIRES(mutex_);
  void Report();

  Client* const client_;
  const std::function<v1::GenerateRequest(size_t)> make_;
  const CallOptions options_;
  const std::function<void(const Progress&)> on_progress_;
  int64_t next_report_ = 0;

  Mutex mutex_;
  CondVar changed_;
  Progress progress_ QUIRE_GUARDED_BY(mutex_);
  bool interrupted_ QUIRE_GUARDED_BY(mutex_) = false;
  std::vector<std::weak_ptr<ClientStream>> calls_ QUIRE_GUARDED_BY(mutex_);
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_LOAD_GENERATOR_H_
