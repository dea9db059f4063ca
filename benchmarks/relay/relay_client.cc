// relay_client: opens streams, lets the mock workers step, and says when their tokens came, and
// what processor time and memory that took of each process. For benchmarks/coordinator.py; prints
// one JSON object.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <ctime>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <quire/v1/inference.grpc.pb.h>
#include <quire/worker/v1/worker.grpc.pb.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include "absl/strings/str_split.h"
#include "benchmarks/relay/board.h"
#include "clients/cli/sample_stats.h"
#include "common/channel.h"
#include "common/grpc_stream.h"
#include "common/mutex.h"
#include "common/server_limits.h"

namespace quire {
namespace {

using worker::v1::SessionEvent;
using worker::v1::SessionRequest;
using Json = nlohmann::ordered_json;

struct Flags {
  std::string target;
  std::string board;
  std::vector<std::string> pids;
  uint32_t ready_workers = 0;
  uint32_t streams = 1;
  uint32_t connections = 1;
  uint32_t steps_per_s = 50;
  uint32_t tokens_per_step = 1;
  double settle_s = 1;
  double seconds = 5;
  bool session = false;
  double slow_share = 0;
  double slow_read_s = 0.5;
  int kill = 0;
  uint32_t most_opening = 512;
};

// When the figures of a run are taken: from `begin` to `end`, of tokens sent after `begin`.
struct Window {
  std::atomic<int64_t> begin{INT64_MAX};
  std::atomic<int64_t> end{INT64_MAX};
};

// What a receiver saw within the window.
struct Seen {
  uint64_t num_messages = 0;
  uint64_t num_tokens = 0;
  std::vector<float> latencies;  // microseconds
  int64_t first_after_kill = 0;  // when the first token came that was sent after the kill

  template <typename Ids>
  void Take(const Ids& ids, const RelayBoard& board, const Window& window,
            const std::atomic<int64_t>& killed_at) {
    const int64_t now = SteadyMicros();
    if (ids.empty()) return;
    if (now >= window.begin.load(std::memory_order_relaxed) &&
        now < window.end.load(std::memory_order_relaxed)) {
      ++num_messages;
      num_tokens += ids.size();
      uint32_t last = 0;
      int64_t sent = 0;
      for (const uint32_t id : ids) {
        if (id != last) sent = board.SentAt(id);
        last = id;
        latencies.push_back(static_cast<float>(now - sent));
      }
    }
    const int64_t killed = killed_at.load(std::memory_order_relaxed);
    if (killed != 0 && first_after_kill == 0 && board.SentAt(*ids.rbegin()) > killed) {
      first_after_kill = now;
    }
  }
};

// Counts what is open.
class Count {
 public:
  void Add(int n) {
    MutexLock lock(mutex_);
    value_ += n;
    changed_.NotifyAll();
  }
  void WaitForAtMost(int n) {
    MutexLock lock(mutex_);
    while (value_ > n) changed_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int value_ QUIRE_GUARDED_BY(mutex_) = 0;
};

struct Shared {
  RelayBoard* board;
  Window window;
  std::atomic<int64_t> killed_at{0};
  Count open;     // streams
  Count opening;  // of them, those without Accepted
  std::atomic<int> num_failed{0};
  std::atomic<bool> ends{false};
};

// Reads one Generate stream, or leaves it unread between two calls of Resume.
class Reader final : public grpc::ClientReadReactor<v1::GenerateEvent> {
 public:
  Reader(Shared* shared, v1::Inference::Stub* stub, bool slow) : shared_(shared), slow_(slow) {
    request_.mutable_token_ids()->add_ids(1);
    request_.set_max_new_tokens(1 << 20);
    request_.mutable_stop()->set_ignore_eos(true);
    shared->open.Add(1);
    shared->opening.Add(1);
    stub->async()->Generate(&context_, &request_, this);
    AddHold();  // until Cancel: reads of slow readers begin outside the reactions
    StartRead(&event_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (!std::exchange(is_open_, true)) shared_->opening.Add(-1);
    seen.Take(event_.delta().token_ids(), *shared_->board, shared_->window, shared_->killed_at);
    if (slow_) {
      due_.store(true);
    } else {
      StartRead(&event_);
    }
  }
  void OnDone(const grpc::Status& status) override {
    if (!is_open_) shared_->opening.Add(-1);
    if (!shared_->ends.load() && shared_->num_failed.fetch_add(1) == 0) {
      std::cerr << "relay_client: a stream ended: " << status.error_message() << "\n";
    }
    shared_->open.Add(-1);
  }
  void Resume() {
    if (due_.exchange(false)) StartRead(&event_);
  }
  void Cancel() {
    slow_ = false;
    Resume();
    context_.TryCancel();
    RemoveHold();
  }
  Seen seen;

 private:
  Shared* const shared_;
  std::atomic<bool> slow_;
  std::atomic<bool> due_{false};
  bool is_open_ = false;
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateEvent event_;
};

// Reads a worker's session itself.
class DirectReader final : public MessageHandler<SessionEvent> {
 public:
  explicit DirectReader(Shared* shared) : shared_(shared) {}
  void OnMessage(SessionEvent event) override {
    seen.Take(event.step_output().token_ids(), *shared_->board, shared_->window,
              shared_->killed_at);
  }
  void OnClosed(const absl::Status&) override { shared_->open.Add(-1); }
  Seen seen;

 private:
  Shared* const shared_;
};

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return NewChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// Processor time that a process has used so far, in seconds.
double CpuSeconds(int pid) {
  clockid_t clock{};
  timespec time{};
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// A line of /proc/PID/status, in KiB.
int64_t Memory(int pid, const std::string& line) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string name; status >> name;) {
    int64_t value = 0;
    if (name == line + ":" && status >> value) return value;
    status.ignore(1 << 16, '\n');
  }
  return 0;
}

class Run {
 public:
  Run(const Flags& flags, RelayBoard* board) : flags_(flags) {
    shared_.board = board;
    board->steps_per_s = 0;
    board->tokens_per_step = flags.tokens_per_step;
    targets_ = absl::StrSplit(flags.target, ',');
    for (const std::string& pid : flags.pids) {
      const std::vector<std::string> parts = absl::StrSplit(pid, '=');
      processes_[parts.at(0)] = std::stoi(parts.at(1));
    }
    processes_["client"] = getpid();
  }

  Json Measure() {
    Json json;
    for (const auto& [name, pid] : processes_)
      json["rss_kib"]["before"][name] = Memory(pid, "VmRSS");
    const int64_t opens_at = SteadyMicros();
    flags_.session ? OpenSessions() : OpenStreams();
    while (shared_.board->num_streams.load() < flags_.streams && shared_.num_failed.load() == 0) {
      WaitUntil(SteadyMicros() + 1'000);
    }
    json["opened_ms"] = (SteadyMicros() - opens_at) / 1e3;
    for (const auto& [name, pid] : processes_)
      json["rss_kib"]["opened"][name] = Memory(pid, "VmRSS");

    shared_.board->steps_per_s = flags_.steps_per_s;
    WaitUntil(SteadyMicros() + static_cast<int64_t>(flags_.settle_s * 1e6));
    const uint64_t steps = shared_.board->num_steps.load();
    const uint64_t skipped = shared_.board->num_skipped.load();
    std::map<std::string, double> cpu;
    for (const auto& [name, pid] : processes_) cpu[name] = CpuSeconds(pid);
    const int64_t begin = SteadyMicros();
    shared_.window.begin = begin;
    if (flags_.kill != 0) {
      shared_.killed_at = SteadyMicros();
      kill(flags_.kill, SIGKILL);
    }
    AwaitWindow(begin + static_cast<int64_t>(flags_.seconds * 1e6));
    shared_.window.end = SteadyMicros();
    const double seconds = (shared_.window.end - begin) / 1e6;
    for (const auto& [name, pid] : processes_) json["cpu_s"][name] = CpuSeconds(pid) - cpu[name];
    for (const auto& [name, pid] : processes_) json["rss_kib"]["end"][name] = Memory(pid, "VmRSS");
    json["seconds"] = seconds;
    json["steps"] = shared_.board->num_steps.load() - steps;
    json["steps_skipped"] = shared_.board->num_skipped.load() - skipped;
    shared_.board->steps_per_s = 0;
    json["failed"] = shared_.num_failed.load();
    CloseAll(&json);
    Evaluate(&json);
    return json;
  }

 private:
  void AwaitWindow(int64_t end) {
    if (flags_.slow_share == 0) return WaitUntil(end);
    while (SteadyMicros() < end) {
      WaitUntil(std::min(end, SteadyMicros() + static_cast<int64_t>(flags_.slow_read_s * 1e6)));
      for (const auto& reader : readers_) reader->Resume();
    }
  }

  void OpenStreams() {
    for (uint32_t i = 0; i < flags_.connections; ++i) {
      stubs_.push_back(v1::Inference::NewStub(Connect(targets_[i % targets_.size()])));
    }
    if (flags_.ready_workers > 0) AwaitReady();
    for (uint32_t i = 0; i < flags_.streams; ++i) {
      const bool slow = i < flags_.slow_share * flags_.streams;
      readers_.push_back(std::make_unique<Reader>(&shared_, stubs_[i % stubs_.size()].get(), slow));
      if (flags_.ready_workers > 0) {
        shared_.opening.WaitForAtMost(static_cast<int>(flags_.most_opening));
      }
    }
  }
  void AwaitReady() {
    for (;;) {
      grpc::ClientContext context;
      v1::GetLoadResponse load;
      stubs_[0]->GetLoad(&context, {}, &load);
      const auto num_ready =
          std::count_if(load.workers().begin(), load.workers().end(),
                        [](const auto& worker) { return worker.state() == v1::WorkerLoad::READY; });
      if (num_ready >= flags_.ready_workers) return;
      WaitUntil(SteadyMicros() + 10'000);
    }
  }
  void OpenSessions() {
    for (const std::string& target : targets_) {
      worker_stubs_.push_back(worker::v1::Worker::NewStub(Connect(target)));
      direct_.push_back(std::make_shared<DirectReader>(&shared_));
      shared_.open.Add(1);
      sinks_.push_back(GrpcClientStream<SessionRequest, SessionEvent>::Start(
          {.max_messages = 65'536}, direct_.back(),
          [stub = worker_stubs_.back().get()](grpc::ClientContext* context, auto* reactor) {
            stub->async()->Session(context, reactor);
          }));
      SessionRequest open;
      open.mutable_open()->set_coordinator_id("direct");
      sinks_.back()->Write(std::move(open));
    }
    for (uint32_t i = 0; i < flags_.streams; ++i) {
      SessionRequest request;
      request.mutable_submit()->set_key(i);
      sinks_[i % sinks_.size()]->Write(std::move(request));
    }
  }

  void CloseAll(Json* json) {
    shared_.ends = true;
    const int64_t began = SteadyMicros();
    for (const auto& reader : readers_) reader->Cancel();
    for (const auto& sink : sinks_) sink->Close(absl::CancelledError("done"));
    shared_.open.WaitForAtMost(0);
    (*json)["closed_ms"] = (SteadyMicros() - began) / 1e3;
    if (flags_.kill != 0) return;
    while (shared_.board->num_streams.load() > 0) WaitUntil(SteadyMicros() + 1'000);
    (*json)["cancelled_at_workers_ms"] = (SteadyMicros() - began) / 1e3;
  }

  void Evaluate(Json* json) {
    std::vector<const Seen*> all;
    for (const auto& reader : readers_) all.push_back(&reader->seen);
    for (const auto& reader : direct_) all.push_back(&reader->seen);
    const auto num_slow = static_cast<size_t>(flags_.slow_share * flags_.streams);
    std::vector<double> latencies;
    std::vector<double> recovery;
    uint64_t num_messages = 0;
    uint64_t num_tokens = 0;
    int num_lost = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      num_messages += all[i]->num_messages;
      num_tokens += all[i]->num_tokens;
      if (i >= num_slow) {
        latencies.insert(latencies.end(), all[i]->latencies.begin(), all[i]->latencies.end());
      }
      if (shared_.killed_at == 0) continue;
      if (all[i]->first_after_kill == 0)
        ++num_lost;
      else
        recovery.push_back((all[i]->first_after_kill - shared_.killed_at) / 1e3);
    }
    (*json)["messages"] = num_messages;
    (*json)["tokens"] = num_tokens;
    const SampleStats stats(std::move(latencies));
    for (const int percent : {50, 90, 99}) {
      (*json)["latency_us"]["p" + std::to_string(percent)] = stats.percentile(percent);
    }
    if (shared_.killed_at == 0) return;
    const SampleStats after(std::move(recovery));
    (*json)["recovery_ms"] = {{"p0", after.percentile(0)},
                              {"p50", after.percentile(50)},
                              {"p99", after.percentile(99)},
                              {"p100", after.percentile(100)}};
    (*json)["not_recovered"] = num_lost;
  }

  const Flags flags_;
  Shared shared_;
  std::vector<std::string> targets_;
  std::map<std::string, int> processes_;
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
  std::vector<std::unique_ptr<Reader>> readers_;
  std::vector<std::unique_ptr<worker::v1::Worker::Stub>> worker_stubs_;
  std::vector<std::shared_ptr<DirectReader>> direct_;
  std::vector<std::shared_ptr<MessageSink<SessionRequest>>> sinks_;
};

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("The client of benchmarks/coordinator.py.");
  app.add_option("--target", flags.target, "HOST:PORT, or several, with commas")->required();
  app.add_option("--board", flags.board, "The file shared with the mock workers")->required();
  app.add_option("--pid", flags.pids, "NAME=PID of a process to account; repeats");
  app.add_option("--ready-workers", flags.ready_workers,
                 "Wait for so many READY workers of the target; 0: it is no coordinator");
  app.add_option("--streams", flags.streams);
  app.add_option("--connections", flags.connections);
  app.add_option("--steps-per-s", flags.steps_per_s, "Of each worker");
  app.add_option("--tokens-per-step", flags.tokens_per_step, "Of each stream, in one entry");
  app.add_option("--settle", flags.settle_s, "Seconds before the window");
  app.add_option("--seconds", flags.seconds, "Of the window");
  app.add_flag("--session", flags.session, "Read the workers' sessions directly");
  app.add_option("--slow-share", flags.slow_share, "Share of the streams that are read slowly");
  app.add_option("--slow-read", flags.slow_read_s, "Seconds between their reads");
  app.add_option("--kill", flags.kill, "Kill this process when the window begins");
  CLI11_PARSE(app, argc, argv);
  RaiseFileLimit();
  RelayBoard* const board = RelayBoard::MapOrExit("relay_client", flags.board);
  std::cout << Run(flags, board).Measure().dump() << "\n";
  return 0;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Main(argc, argv); }
