// How much the coordinator adds to a token's way: from a worker's send to a client's receive,
// through the coordinator and directly, in turns. The worker is a mock that sends one step's
// message for all streams at a fixed rate; its token ids are the send times in microseconds, so
// that the receiver can tell. A third way shows what gRPC alone costs: a server that writes each
// token of a step to its own stream, and does nothing else.
//
// Prints one JSON object. Run by benchmarks/coordinator.sh, which starts the coordinator.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
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
#include "common/clock.h"
#include "common/grpc_stream.h"
#include "common/mutex.h"
#include "common/sha256.h"

namespace quire {
namespace {

using worker::v1::SessionEvent;
using worker::v1::SessionRequest;

struct Flags {
  std::string target;
  uint32_t streams = 50;
  double tokens_per_s = 10'000;
  double seconds = 3;
  uint32_t rounds = 5;
};

// Waits until a time of the steady clock without spinning.
void WaitUntil(int64_t micros) {
  Mutex mutex;
  CondVar never;
  MutexLock lock(mutex);
  while (SteadyMicros() < micros) never.WaitUntil(mutex, FromSteadyMicros(micros));
}

// Microseconds since the bench began: fits a token id.
class Stopwatch {
 public:
  uint32_t now() const { return static_cast<uint32_t>(SteadyMicros() - start_); }

 private:
  const int64_t start_ = SteadyMicros();
};

// The worker's side of all sessions. Every Submit becomes a stream of one token a step.
class MockWorker final : public worker::v1::Worker::CallbackService {
 public:
  MockWorker(const Stopwatch* clock, worker::v1::WorkerInfo info)
      : clock_(clock), info_(std::move(info)) {}

  grpc::ServerBidiReactor<SessionRequest, SessionEvent>* Session(
      grpc::CallbackServerContext* context) override {
    return new GrpcServerStream<SessionRequest, SessionEvent>(
        context, {.max_messages = 65'536},
        [this](auto sink) { return std::make_unique<Handler>(this, std::move(sink)); });
  }
  grpc::ServerWriteReactor<worker::v1::FileChunk>* GetModelFiles(
      grpc::CallbackServerContext*, const worker::v1::GetModelFilesRequest*) override {
    class Writer final : public grpc::ServerWriteReactor<worker::v1::FileChunk> {
     public:
      Writer() {
        chunk_.set_name("config.json");
        chunk_.set_data("{}");
        chunk_.set_sha256(Sha256Digest("{}"));
        StartWriteAndFinish(&chunk_, grpc::WriteOptions(), grpc::Status::OK);
      }
      void OnDone() override { delete this; }

     private:
      worker::v1::FileChunk chunk_;
    };
    return new Writer;
  }

  size_t num_streams() {
    MutexLock lock(mutex_);
    return streams_.size();
  }

  // Sends the next token of every stream: one message a session, as an engine step does.
  void Step() {
    MutexLock lock(mutex_);
    std::map<MessageSink<SessionEvent>*, SessionEvent> events;
    for (Stream& stream : streams_) {
      worker::v1::StepOutput& output = *events[stream.sink.get()].mutable_step_output();
      output.add_key(stream.key);
      output.add_attempt(stream.attempt);
      output.add_first_index(stream.num_tokens++);
    }
    for (auto& [sink, event] : events) {
      worker::v1::StepOutput& output = *event.mutable_step_output();
      const uint32_t now = clock_->now();
      for (int i = 0; i < output.key_size(); ++i) output.add_token_ids(now);
      sink->Write(std::move(event));
    }
  }
  // Ends every stream.
  void Finish() {
    MutexLock lock(mutex_);
    for (Stream& stream : streams_) {
      SessionEvent event;
      worker::v1::Finish& finish = *event.mutable_step_output()->add_finishes();
      finish.set_key(stream.key);
      finish.set_attempt(stream.attempt);
      finish.set_reason(v1::Finished::LENGTH);
      stream.sink->Write(std::move(event));
    }
    streams_.clear();
  }

 private:
  struct Stream {
    std::shared_ptr<MessageSink<SessionEvent>> sink;
    uint64_t key = 0;
    uint32_t attempt = 0;
    uint32_t num_tokens = 0;
  };
  class Handler final : public MessageHandler<SessionRequest> {
   public:
    Handler(MockWorker* worker, std::shared_ptr<MessageSink<SessionEvent>> sink)
        : worker_(worker), sink_(std::move(sink)) {}
    void OnMessage(SessionRequest request) override {
      SessionEvent event;
      if (request.has_open()) {
        event.mutable_opened()->set_incarnation("mock");
        *event.mutable_opened()->mutable_worker() = worker_->info_;
        sink_->Write(std::move(event));
      } else if (request.has_submit()) {
        MutexLock lock(worker_->mutex_);
        worker_->streams_.push_back({sink_, request.submit().key(), request.submit().attempt(), 0});
      } else if (request.has_ping()) {
        event.mutable_pong()->set_nonce(request.ping().nonce());
        sink_->Write(std::move(event));
      }
    }
    void OnClosed(const absl::Status&) override {}

   private:
    MockWorker* const worker_;
    const std::shared_ptr<MessageSink<SessionEvent>> sink_;
  };

  const Stopwatch* const clock_;
  const worker::v1::WorkerInfo info_;
  Mutex mutex_;
  std::vector<Stream> streams_ QUIRE_GUARDED_BY(mutex_);
};

// The least that a server of Generate can do: each token leaves in a message of its own.
class BareService final : public v1::Inference::CallbackService {
 public:
  grpc::ServerWriteReactor<v1::GenerateEvent>* Generate(grpc::CallbackServerContext*,
                                                        const v1::GenerateRequest*) override {
    auto* call = new Call;
    MutexLock lock(mutex_);
    calls_.push_back(call);
    return call;
  }
  size_t num_streams() {
    MutexLock lock(mutex_);
    return calls_.size();
  }
  void Step(uint32_t now) {
    MutexLock lock(mutex_);
    for (Call* call : calls_) call->Send(now);
  }
  void Finish() {
    MutexLock lock(mutex_);
    for (Call* call : calls_) call->End();
    calls_.clear();
  }

 private:
  class Call final : public grpc::ServerWriteReactor<v1::GenerateEvent> {
   public:
    void Send(uint32_t token) {
      MutexLock lock(mutex_);
      pending_.mutable_delta()->add_token_ids(token);
      Advance();
    }
    void End() {
      MutexLock lock(mutex_);
      ending_ = true;
      Advance();
    }
    void OnWriteDone(bool) override {
      MutexLock lock(mutex_);
      writing_ = false;
      Advance();
    }
    void OnDone() override { delete this; }

   private:
    void Advance() QUIRE_REQUIRES(mutex_) {
      if (writing_) return;
      if (pending_.delta().token_ids_size() > 0) {
        writing_ = true;
        sent_.Swap(&pending_);
        pending_.Clear();
        StartWrite(&sent_);
      } else if (ending_) {
        ending_ = false;
        grpc::ServerWriteReactor<v1::GenerateEvent>::Finish(grpc::Status::OK);
      }
    }
    Mutex mutex_;
    v1::GenerateEvent pending_ QUIRE_GUARDED_BY(mutex_);
    v1::GenerateEvent sent_ QUIRE_GUARDED_BY(mutex_);
    bool writing_ QUIRE_GUARDED_BY(mutex_) = false;
    bool ending_ QUIRE_GUARDED_BY(mutex_) = false;
  };
  Mutex mutex_;
  std::vector<Call*> calls_ QUIRE_GUARDED_BY(mutex_);
};

// Where receivers put what they saw. One vector a receiver: no lock on the way.
using Latencies = std::vector<uint32_t>;

// Reads one Generate stream.
class PublicClient final : public grpc::ClientReadReactor<v1::GenerateEvent> {
 public:
  PublicClient(v1::Inference::Stub* stub, const Stopwatch* clock, std::atomic<int>* open)
      : clock_(clock), open_(open) {
    request_.mutable_token_ids()->add_ids(1);
    open->fetch_add(1);
    stub->async()->Generate(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    const uint32_t now = clock_->now();
    for (const uint32_t sent : event_.delta().token_ids()) latencies.push_back(now - sent);
    StartRead(&event_);
  }
  void OnDone(const grpc::Status& status) override {
    if (!status.ok()) std::cerr << status.error_message() << "\n";
    open_->fetch_sub(1);
    open_->notify_all();
  }
  Latencies latencies;

 private:
  const Stopwatch* const clock_;
  std::atomic<int>* const open_;
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateEvent event_;
};

// Reads a session directly.
class DirectClient final : public MessageHandler<SessionEvent> {
 public:
  explicit DirectClient(const Stopwatch* clock) : clock_(clock) {}
  void OnMessage(SessionEvent event) override {
    const uint32_t now = clock_->now();
    for (const uint32_t sent : event.step_output().token_ids()) latencies.push_back(now - sent);
  }
  void OnClosed(const absl::Status&) override {
    closed.store(true);
    closed.notify_all();
  }
  Latencies latencies;
  std::atomic<bool> closed{false};

 private:
  const Stopwatch* const clock_;
};

double Percentile(Latencies& values, double share) {
  if (values.empty()) return std::nan("");
  const size_t index = std::min(values.size() - 1, static_cast<size_t>(share * values.size()));
  std::nth_element(values.begin(), values.begin() + index, values.end());
  return values[index];
}
double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Bench {
 public:
  explicit Bench(const Flags& flags) : flags_(flags) {
    worker::v1::WorkerInfo info;
    info.set_name("mock");
    info.set_model("mock");
    info.set_engine(v1::PAGED);
    info.set_context_length(1 << 30);
    info.set_vocabulary_size(UINT32_MAX);
    info.mutable_limits()->set_max_num_seqs(100'000);
    info.mutable_limits()->set_max_queue(100'000);
    worker_ = std::make_unique<MockWorker>(&clock_, info);
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(worker_.get());
    builder.RegisterService(&bare_);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
    // A channel of its own for what a client and a worker would each have.
    public_stub_ = v1::Inference::NewStub(Channel(flags.target));
    bare_stub_ = v1::Inference::NewStub(Channel(address_));
    worker_stub_ = worker::v1::Worker::NewStub(Channel(address_));
    Join(info);
  }

  // Ends the coordinator's session too.
  ~Bench() { server_->Shutdown(std::chrono::system_clock::now()); }

  Latencies Direct() {
    auto client = std::make_shared<DirectClient>(&clock_);
    auto sink = GrpcClientStream<SessionRequest, SessionEvent>::Start(
        {.max_messages = 1024}, client, [this](grpc::ClientContext* context, auto* reactor) {
          worker_stub_->async()->Session(context, reactor);
        });
    SessionRequest open;
    open.mutable_open()->set_coordinator_id("direct");
    sink->Write(std::move(open));
    for (uint32_t i = 0; i < flags_.streams; ++i) {
      SessionRequest request;
      request.mutable_submit()->set_key(i);
      sink->Write(std::move(request));
    }
    RunSteps([this] { return worker_->num_streams(); }, [this] { worker_->Step(); });
    worker_->Finish();
    sink->Close(absl::CancelledError("done"));
    client->closed.wait(false);
    return std::move(client->latencies);
  }

  Latencies ThroughCoordinator() {
    return OfStreams(
        public_stub_.get(), [this] { return worker_->num_streams(); }, [this] { worker_->Step(); },
        [this] { worker_->Finish(); });
  }
  Latencies Bare() {
    return OfStreams(
        bare_stub_.get(), [this] { return bare_.num_streams(); },
        [this] { bare_.Step(clock_.now()); }, [this] { bare_.Finish(); });
  }

 private:
  // What the clients of streams see: opened at `stub`, fed by `step`, ended by `finish`.
  Latencies OfStreams(v1::Inference::Stub* stub, const std::function<size_t()>& num_streams,
                      const std::function<void()>& step, const std::function<void()>& finish) {
    std::atomic<int> open{0};
    std::vector<std::unique_ptr<PublicClient>> clients;
    for (uint32_t i = 0; i < flags_.streams; ++i) {
      clients.push_back(std::make_unique<PublicClient>(stub, &clock_, &open));
    }
    RunSteps(num_streams, step);
    finish();
    for (int left = open.load(); left != 0; left = open.load()) open.wait(left);
    Latencies all;
    for (const auto& client : clients) {
      all.insert(all.end(), client->latencies.begin(), client->latencies.end());
    }
    return all;
  }

  static std::shared_ptr<grpc::Channel> Channel(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  }

  // Announces the mock and waits until the coordinator would place a request there.
  void Join(const worker::v1::WorkerInfo& info) {
    auto registry = worker::v1::Registry::NewStub(Channel(flags_.target));
    grpc::ClientContext context;
    auto stream = registry->Join(&context);
    worker::v1::WorkerStatus status;
    status.set_address(address_);
    status.set_incarnation("mock");
    *status.mutable_worker() = info;
    stream->Write(status);
    worker::v1::JoinReply reply;
    stream->Read(&reply);
    stream->WritesDone();
    stream->Finish();
    for (;;) {
      grpc::ClientContext load_context;
      v1::GetLoadResponse load;
      public_stub_->GetLoad(&load_context, {}, &load);
      if (load.workers_size() > 0 && load.workers(0).state() == v1::WorkerLoad::READY) return;
      WaitUntil(SteadyMicros() + 10'000);
    }
  }

  void RunSteps(const std::function<size_t()>& num_streams, const std::function<void()>& step) {
    while (num_streams() < flags_.streams) WaitUntil(SteadyMicros() + 1'000);
    const double step_micros = 1e6 * flags_.streams / flags_.tokens_per_s;
    const auto steps = static_cast<int64_t>(flags_.seconds * 1e6 / step_micros);
    const int64_t start = SteadyMicros();
    for (int64_t i = 1; i <= steps; ++i) {
      WaitUntil(start + static_cast<int64_t>(i * step_micros));
      step();
    }
  }

  const Flags flags_;
  Stopwatch clock_;
  std::unique_ptr<MockWorker> worker_;
  BareService bare_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::unique_ptr<v1::Inference::Stub> public_stub_;
  std::unique_ptr<v1::Inference::Stub> bare_stub_;
  std::unique_ptr<worker::v1::Worker::Stub> worker_stub_;
};

int Run(int argc, char** argv) {
  Flags flags;
  CLI::App app("Measures what the coordinator adds to a token's way.");
  app.add_option("--target", flags.target, "HOST:PORT of the coordinator")->required();
  app.add_option("--streams", flags.streams, "Streams at once");
  app.add_option("--tokens-per-s", flags.tokens_per_s, "Tokens a second, of all streams together");
  app.add_option("--seconds", flags.seconds, "Seconds a round");
  app.add_option("--rounds", flags.rounds,
                 "Rounds of direct and through the coordinator, in turns");
  CLI11_PARSE(app, argc, argv);

  Bench bench(flags);
  nlohmann::ordered_json json;
  std::map<std::string, std::vector<double>> p50;
  std::map<std::string, std::vector<double>> p99;
  std::vector<double> added50, added99, bare50, bare99;
  size_t num_tokens = 0;
  for (uint32_t round = 0; round <= flags.rounds; ++round) {
    Latencies direct = bench.Direct();
    Latencies bare = bench.Bare();
    Latencies coordinator = bench.ThroughCoordinator();
    if (round == 0) continue;  // warm-up
    num_tokens = coordinator.size();
    p50["direct"].push_back(Percentile(direct, 0.5));
    p99["direct"].push_back(Percentile(direct, 0.99));
    p50["coordinator"].push_back(Percentile(coordinator, 0.5));
    p99["coordinator"].push_back(Percentile(coordinator, 0.99));
    bare50.push_back(Percentile(bare, 0.5));
    bare99.push_back(Percentile(bare, 0.99));
    added50.push_back(p50["coordinator"].back() - p50["direct"].back());
    added99.push_back(p99["coordinator"].back() - p99["direct"].back());
  }
  std::ifstream load_file("/proc/loadavg");
  std::string load;
  std::getline(load_file, load);
  json["streams"] = flags.streams;
  json["tokens_per_s"] = flags.tokens_per_s;
  json["tokens_a_round"] = num_tokens;
  json["rounds"] = flags.rounds;
  json["load"] = load;
  json["direct_us"] = {{"p50", Median(p50["direct"])}, {"p99", Median(p99["direct"])}};
  json["bare_grpc_us"] = {{"p50", Median(bare50)}, {"p99", Median(bare99)}};
  json["coordinator_us"] = {{"p50", Median(p50["coordinator"])},
                            {"p99", Median(p99["coordinator"])}};
  json["added_us"] = {{"p50", Median(added50)}, {"p99", Median(added99)}};
  json["target_us"] = {{"p50", 100}, {"p99", 500}};
  std::cout << json.dump(1) << "\n";
  return 0;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Run(argc, argv); }
