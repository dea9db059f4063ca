#ifndef QUIRE_TESTS_WORKER_RPC_TEST_COORDINATOR_H_
#define QUIRE_TESTS_WORKER_RPC_TEST_COORDINATOR_H_

#include <quire/worker/v1/worker.pb.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "scheduler/sampling_params.h"
#include "tests/fakes/in_process_stream.h"
#include "worker/rpc/session_table.h"

namespace quire {

// A greedy request with defaults.
worker::v1::Submit MakeSubmit(uint64_t key, const std::vector<TokenId>& prompt,
                              uint32_t max_new_tokens);

// A coordinator's side of a worker session: one connection at a time, over an in-process transport.
// Takes a token only if its attempt is the current one, and fails the test where its index is not
// the next: nothing may be lost or come twice. Thread safe.
class TestCoordinator {
 public:
  struct Choice {
    std::vector<TokenId> tokens;
    std::optional<worker::v1::Finish> finish;
  };

  TestCoordinator(SessionTable* table, std::string id);
  ~TestCoordinator();

  // Opens a connection, in place of the one there is, and waits for the worker's greeting.
  worker::v1::Opened Connect(size_t max_messages = 4096);
  // The network fails. Returns when both ends know.
  void Cut();
  // As one of an earlier version. Before Connect.
  void LeaveTheEndToTheWorker() { ends_call_ = false; }
  void SetReads(bool reads) { stream_->SetClientReads(reads); }

  // False: the connection is gone.
  bool Send(worker::v1::SessionRequest request);
  // Emitted tokens count as received. Sets the current attempt.
  void Submit(const worker::v1::Submit& submit);
  // As if it had been sent before, over another connection.
  void Expect(const worker::v1::Submit& submit);
  void Cancel(uint64_t key);
  void CancelChoice(uint64_t key, uint32_t choice, uint32_t stop_index);
  // From the first token on that has not come.
  void Reclaim(uint64_t key);

  // Each waits until it is there.
  void WaitForTokens(uint64_t key, size_t count, uint32_t choice = 0);
  worker::v1::Finish WaitForFinish(uint64_t key, uint32_t choice = 0);
  worker::v1::Rejected WaitForRejection(uint64_t key);
  // Every choice has ended, or the current attempt was rejected: then the rejection.
  std::optional<worker::v1::Rejected> WaitForEnd(uint64_t key);
  worker::v1::Pong WaitForPong();
  void WaitForClosing();
  // The worker has taken all that was sent.
  void Sync();
  absl::Status WaitForLoss();
  // Loads that came on all connections.
  void WaitForLoads(uint64_t count);
  uint64_t num_loads();
  // A load from now on that has nothing running or waiting.
  worker::v1::Load WaitForIdle();

  std::vector<TokenId> tokens(uint64_t key, uint32_t choice = 0);
  bool finished(uint64_t key, uint32_t choice = 0);
  // How many log-probabilities of the prompt each message brought.
  std::vector<int> prompt_logprobs(uint64_t key);

 private:
  class Connection;
  using Stream = InProcessStream<worker::v1::SessionRequest, worker::v1::SessionEvent>;

  struct Request {
    uint32_t attempt = 0;
    std::vector<Choice> choices;
    std::vector<int> prompt_logprobs;  // how many came, by message
    std::optional<worker::v1::Rejected> rejection;
  };

  void Take(uint64_t connection, const worker::v1::SessionEvent& event);
  void TakeStep(const worker::v1::StepOutput& output) QUIRE_REQUIRES(mutex_);
  void Lost(uint64_t connection, const absl::Status& status);

  SessionTable* const table_;
  const std::string id_;
  std::unique_ptr<Stream> stream_;  // of the thread that connects

  Mutex mutex_;
  CondVar changed_;
  uint64_t connection_ QUIRE_GUARDED_BY(mutex_) = 0;  // the current one; others are not heard
  std::optional<worker::v1::Opened> opened_ QUIRE_GUARDED_BY(mutex_);
  bool ends_call_ = true;
  bool is_closing_ QUIRE_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> loss_ QUIRE_GUARDED_BY(mutex_);
  std::optional<worker::v1::Pong> pong_ QUIRE_GUARDED_BY(mutex_);
  std::optional<worker::v1::Load> load_ QUIRE_GUARDED_BY(mutex_);
  uint64_t num_loads_ QUIRE_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, Request> requests_ QUIRE_GUARDED_BY(mutex_);
};

}  // namespace quire

#endif  // QUIRE_TESTS_WORKER_RPC_TEST_COORDINATOR_H_
