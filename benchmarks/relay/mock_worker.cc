// relay_mock: workers without an engine, for benchmarks/coordinator.py. Each announces itself to
// the coordinator, takes every request and, at the rate that the board says, sends one step's
// tokens of all its streams in one message, as an engine's step does; workers of one process take
// turns.
//
// It is also the least that a server of Generate can do, for comparison: a call of Generate to it
// gets each of a step's tokens in a message of its own, from the same steps.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <unistd.h>

#include <grpcpp/grpcpp.h>
#include <quire/v1/inference.grpc.pb.h>
#include <quire/worker/v1/worker.grpc.pb.h>
#include <CLI/CLI.hpp>
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "benchmarks/relay/board.h"
#include "common/channel.h"
#include "common/mutex.h"
#include "common/server_limits.h"
#include "common/sha256.h"
#include "common/signals.h"

namespace quire {
namespace {

using worker::v1::SessionEvent;
using worker::v1::SessionRequest;

// Steps that may wait for a session's reader; beyond them the worker makes none, so that what it
// offers is what is taken.
constexpr size_t kMaxQueuedSteps = 4;
constexpr int64_t kRestMicros = 5'000;

// One coordinator's session. Deletes itself when the call is over.
class Session final : public grpc::ServerBidiReactor<SessionRequest, SessionEvent> {
 public:
  Session(RelayBoard* board, worker::v1::WorkerInfo info, std::shared_ptr<Session*> place,
          Mutex* places)
      : board_(board), info_(std::move(info)), place_(std::move(place)), places_(places) {
    StartRead(&request_);
  }

  // Sends the next tokens of every stream.
  void Step(uint32_t tokens_per_step) {
    {
      MutexLock lock(mutex_);
      if (streams_.empty() || ended_) return;
      if (num_queued_steps_ >= kMaxQueuedSteps) {
        board_->num_skipped.fetch_add(1);
        return;
      }
      ++num_queued_steps_;
      SessionEvent& event = queue_.emplace_back();
      worker::v1::StepOutput& output = *event.mutable_step_output();
      const int num_streams = static_cast<int>(streams_.size());
      output.mutable_key()->Reserve(num_streams);
      output.mutable_attempt()->Reserve(num_streams);
      output.mutable_first_index()->Reserve(num_streams);
      output.mutable_token_ids()->Reserve(num_streams * static_cast<int>(tokens_per_step));
      const uint32_t id = board_->Stamp();
      for (Stream& stream : streams_) {
        output.add_key(stream.key);
        output.add_attempt(stream.attempt);
        output.add_first_index(stream.num_tokens);
        stream.num_tokens += tokens_per_step;
        for (uint32_t i = 0; i < tokens_per_step; ++i) output.add_token_ids(id);
        if (tokens_per_step > 1) output.add_num_tokens(tokens_per_step);
      }
    }
    Advance();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End();
    Take();
    request_.Clear();
    StartRead(&request_);
  }
  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mutex_);
      writing_ = false;
      if (queue_.front().has_step_output() && queue_.front().step_output().key_size() > 0) {
        --num_queued_steps_;
      }
      queue_.pop_front();
      ended_ |= !ok;
      ok = !ended_;
    }
    ok ? Advance() : End();
  }
  void OnCancel() override { End(); }
  void OnDone() override {
    {
      MutexLock lock(*places_);
      if (*place_ == this) *place_ = nullptr;
    }
    board_->num_streams.fetch_sub(static_cast<int64_t>(streams_.size()));
    delete this;
  }

 private:
  struct Stream {
    uint64_t key = 0;
    uint32_t attempt = 0;
    uint32_t num_tokens = 0;
  };

  void Take() {
    SessionEvent event;
    if (request_.has_open()) {
      event.mutable_opened()->set_incarnation(absl::StrCat(getpid()));
      *event.mutable_opened()->mutable_worker() = info_;
    } else if (request_.has_submit()) {
      const worker::v1::Submit& submit = request_.submit();
      Stream stream{submit.key(), submit.attempt(), 0};
      if (submit.emitted_size() > 0) {
        stream.num_tokens = submit.emitted(0).emitted_token_ids_size();
      }
      MutexLock lock(mutex_);
      index_[stream.key] = streams_.size();
      streams_.push_back(stream);
      board_->num_streams.fetch_add(1);
      return;
    } else if (request_.has_ping()) {
      event.mutable_pong()->set_nonce(request_.ping().nonce());
    } else if (request_.has_cancel()) {
      worker::v1::Finish& finish = *event.mutable_step_output()->add_finishes();
      MutexLock lock(mutex_);
      const auto found = index_.find(request_.cancel().key());
      if (found == index_.end()) return;
      Stream& stream = streams_[found->second];
      finish.set_key(stream.key);
      finish.set_attempt(stream.attempt);
      finish.set_reason(v1::Finished::ABORTED);
      finish.set_status_code(static_cast<int>(absl::StatusCode::kCancelled));
      index_[streams_.back().key] = found->second;
      stream = streams_.back();
      streams_.pop_back();
      index_.erase(found);
      board_->num_streams.fetch_sub(1);
    } else {
      return;
    }
    {
      MutexLock lock(mutex_);
      queue_.push_back(std::move(event));
    }
    Advance();
  }
  void Advance() {
    const SessionEvent* next = nullptr;
    {
      MutexLock lock(mutex_);
      if (writing_ || ended_ || queue_.empty()) return;
      writing_ = true;
      next = &queue_.front();
    }
    StartWrite(next);
  }
  // A write in flight ends first.
  void End() {
    {
      MutexLock lock(mutex_);
      ended_ = true;
      if (writing_ || std::exchange(finished_, true)) return;
    }
    Finish(grpc::Status::CANCELLED);
  }

  RelayBoard* const board_;
  const worker::v1::WorkerInfo info_;
  const std::shared_ptr<Session*> place_;  // where the worker finds it
  Mutex* const places_;
  SessionRequest request_;
  Mutex mutex_;
  std::vector<Stream> streams_ QUIRE_GUARDED_BY(mutex_);
  std::unordered_map<uint64_t, size_t> index_ QUIRE_GUARDED_BY(mutex_);  // of a key in streams_
  std::deque<SessionEvent> queue_ QUIRE_GUARDED_BY(mutex_);
  size_t num_queued_steps_ QUIRE_GUARDED_BY(mutex_) = 0;
  bool writing_ QUIRE_GUARDED_BY(mutex_) = false;
  bool ended_ QUIRE_GUARDED_BY(mutex_) = false;
  bool finished_ QUIRE_GUARDED_BY(mutex_) = false;
};

// A call of Generate. What comes while a write is in flight goes into the next, as the coordinator
// does it.
class BareCall final : public grpc::ServerWriteReactor<v1::GenerateEvent> {
 public:
  explicit BareCall(RelayBoard* board) : board_(board) { board->num_streams.fetch_add(1); }

  // From the thread that steps, which alone ends calls.
  void Send(uint32_t id, uint32_t num_tokens) {
    {
      MutexLock lock(mutex_);
      pending_.mutable_delta()->mutable_token_ids()->Resize(
          pending_.delta().token_ids_size() + static_cast<int>(num_tokens), id);
      if (writing_) return;
      Swap();
    }
    StartWrite(&sent_);
  }
  // Whether its client has gone: ends it then, once no write is in flight.
  bool EndIfCancelled() {
    if (!cancelled_) return false;
    {
      MutexLock lock(mutex_);
      if (writing_) return false;
    }
    board_->num_streams.fetch_sub(1);
    Finish(grpc::Status::CANCELLED);
    return true;
  }
  void OnWriteDone(bool) override {
    {
      MutexLock lock(mutex_);
      writing_ = false;
      if (cancelled_ || pending_.delta().token_ids_size() == 0) return;
      Swap();
    }
    StartWrite(&sent_);
  }
  void OnCancel() override { cancelled_ = true; }
  void OnDone() override { delete this; }

 private:
  void Swap() QUIRE_REQUIRES(mutex_) {
    writing_ = true;
    sent_.Swap(&pending_);
    pending_.Clear();
  }
  RelayBoard* const board_;
  std::atomic<bool> cancelled_ = false;
  Mutex mutex_;
  v1::GenerateEvent pending_ QUIRE_GUARDED_BY(mutex_);
  v1::GenerateEvent sent_;
  bool writing_ QUIRE_GUARDED_BY(mutex_) = false;
};

// Sends a model's files and ends.
class FileWriter final : public grpc::ServerWriteReactor<worker::v1::FileChunk> {
 public:
  explicit FileWriter(const std::vector<worker::v1::FileChunk>* chunks) : chunks_(chunks) {
    Next();
  }
  void OnWriteDone(bool ok) override { ok ? Next() : Finish(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }

 private:
  void Next() {
    next_ < chunks_->size() ? StartWrite(&(*chunks_)[next_++]) : Finish(grpc::Status::OK);
  }
  const std::vector<worker::v1::FileChunk>* const chunks_;
  size_t next_ = 0;
};

class MockWorker final : public worker::v1::Worker::CallbackService {
 public:
  MockWorker(RelayBoard* board, worker::v1::WorkerInfo info,
             const std::vector<worker::v1::FileChunk>* files)
      : board_(board), info_(std::move(info)), files_(files), bare_(this) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    builder.RegisterService(&bare_);
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port);
  }

  const std::string& address() const { return address_; }

  void Join(const std::string& coordinator) {
    stub_ =
        worker::v1::Registry::NewStub(NewChannel(coordinator, grpc::InsecureChannelCredentials()));
    join_ = stub_->Join(&join_context_);
    worker::v1::WorkerStatus status;
    status.set_address(address_);
    status.set_incarnation(absl::StrCat(getpid()));
    *status.mutable_worker() = info_;
    join_->Write(status);
  }

  void Step(bool rests, uint32_t tokens_per_step) {
    std::vector<BareCall*> calls;
    {
      MutexLock lock(mutex_);
      for (const auto& session : sessions_) {
        if (*session != nullptr && !rests) (*session)->Step(tokens_per_step);
      }
      std::erase_if(sessions_, [](const auto& session) { return *session == nullptr; });
      calls.swap(calls_);
    }
    std::erase_if(calls, [](BareCall* call) { return call->EndIfCancelled(); });
    if (!calls.empty() && !rests) {
      const uint32_t id = board_->Stamp();
      for (BareCall* call : calls) call->Send(id, tokens_per_step);
    }
    MutexLock lock(mutex_);
    calls_.insert(calls_.end(), calls.begin(), calls.end());
  }

 private:
  class Bare final : public v1::Inference::CallbackService {
   public:
    explicit Bare(MockWorker* worker) : worker_(worker) {}
    grpc::ServerWriteReactor<v1::GenerateEvent>* Generate(grpc::CallbackServerContext*,
                                                          const v1::GenerateRequest*) override {
      auto* call = new BareCall(worker_->board_);
      MutexLock lock(worker_->mutex_);
      worker_->calls_.push_back(call);
      return call;
    }

   private:
    MockWorker* const worker_;
  };

  grpc::ServerBidiReactor<SessionRequest, SessionEvent>* Session(
      grpc::CallbackServerContext*) override {
    auto place = std::make_shared<quire::Session*>(nullptr);
    MutexLock lock(mutex_);
    sessions_.push_back(place);
    return *place = new quire::Session(board_, info_, place, &mutex_);
  }
  grpc::ServerWriteReactor<worker::v1::FileChunk>* GetModelFiles(
      grpc::CallbackServerContext*, const worker::v1::GetModelFilesRequest*) override {
    return new FileWriter(files_);
  }

  RelayBoard* const board_;
  const worker::v1::WorkerInfo info_;
  const std::vector<worker::v1::FileChunk>* const files_;
  Bare bare_;
  Mutex mutex_;
  std::vector<std::shared_ptr<quire::Session*>> sessions_ QUIRE_GUARDED_BY(mutex_);
  std::vector<BareCall*> calls_ QUIRE_GUARDED_BY(mutex_);
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
  grpc::ClientContext join_context_;
  std::unique_ptr<worker::v1::Registry::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<worker::v1::WorkerStatus, worker::v1::JoinReply>> join_;
};

std::vector<worker::v1::FileChunk> ReadFiles(const std::filesystem::path& folder) {
  std::vector<worker::v1::FileChunk> chunks;
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"}) {
    std::ifstream file(folder / name, std::ios::binary);
    std::stringstream content;
    content << file.rdbuf();
    worker::v1::FileChunk& chunk = chunks.emplace_back();
    chunk.set_name(name);
    chunk.set_data(content.str());
    chunk.set_sha256(Sha256Digest(chunk.data()));
  }
  return chunks;
}

struct Flags {
  std::string join;
  std::string board;
  std::string model;
  std::string name = "mock";
  uint32_t workers = 1;
  bool join_late = false;
};

// Steps the workers in turns, evenly spread over a step's time.
class Stepper {
 public:
  Stepper(RelayBoard* board, std::vector<std::unique_ptr<MockWorker>>* workers)
      : board_(board), workers_(workers), due_(SteadyMicros()) {}

  void Turn() {
    const uint32_t rate = board_->steps_per_s.load();
    if (rate == 0) {
      for (const auto& worker : *workers_) worker->Step(/*rests=*/true, 0);
      WaitUntil(SteadyMicros() + kRestMicros);
      due_ = static_cast<double>(SteadyMicros());
      return;
    }
    due_ += 1e6 / rate / workers_->size();
    // Time that was lost is not caught up by a burst.
    due_ = std::max(due_, static_cast<double>(SteadyMicros()) - 1e6 / rate);
    WaitUntil(static_cast<int64_t>(due_));
    (*workers_)[next_]->Step(/*rests=*/false, std::max(1u, board_->tokens_per_step.load()));
    next_ = (next_ + 1) % workers_->size();
  }

 private:
  RelayBoard* const board_;
  std::vector<std::unique_ptr<MockWorker>>* const workers_;
  double due_;  // steady, microseconds
  size_t next_ = 0;
};

int Run(int argc, char** argv) {
  BlockTerminationSignals();
  Flags flags;
  CLI::App app("Workers without an engine, for benchmarks/coordinator.py.");
  app.add_option("--join", flags.join, "HOST:PORT of the coordinator")->required();
  app.add_option("--board", flags.board, "The file shared with the client")->required();
  app.add_option("--model", flags.model, "A model's folder, for its tokenizer")->required();
  app.add_option("--name", flags.name, "The workers' names begin with it");
  app.add_option("--workers", flags.workers, "Workers of this process");
  app.add_flag("--join-late", flags.join_late, "Join when the board says that steps begin");
  CLI11_PARSE(app, argc, argv);
  RaiseFileLimit();

  RelayBoard* const board = RelayBoard::MapOrExit("relay_mock", flags.board);
  const std::vector<worker::v1::FileChunk> files = ReadFiles(flags.model);
  std::vector<std::unique_ptr<MockWorker>> workers;
  std::string addresses;
  for (uint32_t i = 0; i < flags.workers; ++i) {
    worker::v1::WorkerInfo info;
    info.set_name(absl::StrCat(flags.name, "-", i));
    info.set_model("mock");
    info.set_engine(v1::PAGED);
    info.set_numerics_id("mock");
    info.set_context_length(1 << 30);
    info.set_vocabulary_size(8192);
    info.mutable_limits()->set_max_num_seqs(100'000);
    info.mutable_limits()->set_max_queue(100'000);
    workers.push_back(std::make_unique<MockWorker>(board, info, &files));
    absl::StrAppend(&addresses, i == 0 ? "" : ",", workers.back()->address());
  }
  std::cout << "relay_mock listening on " << addresses << std::endl;

  bool joined = false;
  std::thread stepping([&] {
    Stepper stepper(board, &workers);
    for (;;) {
      if (!joined && (!flags.join_late || board->steps_per_s.load() > 0)) {
        for (const auto& worker : workers) worker->Join(flags.join);
        joined = true;
      }
      stepper.Turn();
    }
  });
  WaitForTerminationSignal();
  std::_Exit(0);  // nothing of it needs an orderly end
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Run(argc, argv); }
