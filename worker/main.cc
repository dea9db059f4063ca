// quire-worker: serves one model on one device to any number of coordinators.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <unistd.h>

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/address.h"
#include "common/clock.h"
#include "common/credentials.h"
#include "common/drain.h"
#include "common/etcd/etcd_client.h"
#include "common/flags.h"
#include "common/join_token.h"
#include "common/keepalive.h"
#include "common/logging.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/printable.h"
#include "common/server_limits.h"
#include "common/signals.h"
#include "common/steady_deadline.h"
#include "common/ticker.h"
#include "common/version.h"
#include "common/worker_identity.h"
#include "worker/engine/engine_loop.h"
#include "worker/engine_factory.h"
#include "worker/model/range_table.h"
#include "worker/model/weights.h"
#include "worker/rpc/etcd_announcer.h"
#include "worker/rpc/join_client.h"
#include "worker/rpc/model_files.h"
#include "worker/rpc/session_table.h"
#include "worker/rpc/worker_service.h"
#include "worker/worker_flags.h"

namespace quire {
namespace {

constexpr int kExitFatal = 3;
constexpr int64_t kTickMicros = 250'000;
constexpr int64_t kShutdownMicros = 1'000'000;
constexpr int64_t kFatalFlushMicros = 2'000'000;  // streams stand still meanwhile
constexpr int kMaxMessageBytes = 16 << 20;
// Of one connection. A coordinator needs two: its session and the model's files.
constexpr int kMaxStreams = 128;

struct WorkerMetrics {
  explicit WorkerMetrics(Metrics& m)
      : running(m.AddGauge("num_requests_running", "Sequences in the running batch")),
        waiting(m.AddGauge("num_requests_waiting", "Sequences waiting for the running batch")),
        kv_usage(m.AddGauge("kv_cache_usage_perc", "KV blocks held by sequences, 0 to 1")),
        requests(m.AddCounter("request_success_total", "Requests that ended with status OK")),
        failures(m.AddCounter("request_failure_total", "Requests that ended with another status")),
        refused(m.AddCounter("request_refused_total", "Requests refused, the queue being full")),
        prompt_tokens(m.AddCounter("prompt_tokens_total", "Prompt tokens of ended requests")),
        generation_tokens(
            m.AddCounter("generation_tokens_total", "Output tokens of ended requests")),
        first_token(m.AddLatencyHistogram("time_to_first_token_seconds", "Arrival to first token")),
        token_gap(m.AddLatencyHistogram("inter_token_latency_seconds",
                                        "From a token to the next of the same choice")),
        queue_time(m.AddLatencyHistogram("request_queue_time_seconds", "Arrival to first step")),
        latency(m.AddLatencyHistogram("e2e_request_latency_seconds", "Arrival to end")) {}
  prometheus::Gauge& running;
  prometheus::Gauge& waiting;
  prometheus::Gauge& kv_usage;
  prometheus::Counter& requests;
  prometheus::Counter& failures;
  prometheus::Counter& refused;
  prometheus::Counter& prompt_tokens;
  prometheus::Counter& generation_tokens;
  prometheus::Histogram& first_token;
  prometheus::Histogram& token_gap;
  prometheus::Histogram& queue_time;
  prometheus::Histogram& latency;

  void Record(const worker::v1::Load& load) {
    running.Set(load.running());
    waiting.Set(load.waiting());
    const double held = load.blocks_total() - load.blocks_free() - load.blocks_cached();
    kv_usage.Set(load.blocks_total() > 0 ? held / load.blocks_total() : 0);
  }
  void RecordGap(Micros gap, uint32_t num_tokens) {
    for (uint32_t i = 0; i < num_tokens; ++i) token_gap.Observe(gap / 1e6 / num_tokens);
  }
  void Record(const SessionTable::RequestRecord& record) {
    (record.status.ok() ? requests : failures).Increment();
    prompt_tokens.Increment(record.prompt_tokens);
    generation_tokens.Increment(record.output_tokens);
    if (record.first_token >= 0) first_token.Observe(record.first_token / 1e6);
    queue_time.Observe(record.queued / 1e6);
    latency.Observe(record.total / 1e6);
  }
};

void LogRequest(const SessionTable::RequestRecord& record) {
  LogInfo(absl::StrFormat(
      "request id=%s status=%s choices=%d prompt=%d cached=%d output=%d queued_ms=%.1f%s "
      "total_ms=%.1f%s%s",
      LogValue(record.request_id), absl::StatusCodeToString(record.status.code()), record.choices,
      record.prompt_tokens, record.cached_tokens, record.output_tokens, record.queued / 1e3,
      LogMillis("first_token_ms", record.first_token), record.total / 1e3,
      record.status.ok() ? "" : " why=", std::string(record.status.message())));
}

std::string MakeIncarnation() {
  std::random_device device;
  return absl::StrFormat("%08x%08x-%d", device(), device(), getpid());
}

worker::v1::WorkerInfo MakeInfo(const WorkerFlags& flags, const BuiltEngine& built,
                                const std::string& name, const std::string& model) {
  const ExecutorLimits& limits = built.executor->limits();
  worker::v1::WorkerInfo info;
  info.set_name(name);
  info.set_model(model);
  info.set_engine(flags.engine.engine == "baseline" ? v1::BASELINE : v1::PAGED);
  info.set_numerics_id(built.numerics_id);
  info.set_context_length(limits.context_length);
  info.set_vocabulary_size(limits.vocabulary_size);
  info.set_dtype(built.dtype);
  info.set_kv_cache(built.kv_cache);
  info.mutable_kv()->set_block_size(limits.block_size);
  info.mutable_kv()->set_num_blocks(limits.num_blocks);
  info.mutable_kv()->set_bytes_per_token(limits.kv_bytes_per_token);
  info.mutable_limits()->set_max_num_seqs(limits.num_slots);
  info.mutable_limits()->set_max_queue(flags.engine.max_queue);
  info.mutable_limits()->set_max_num_batched_tokens(limits.max_num_batched_tokens);
  info.set_version(kVersion);
  return info;
}

// The last component of the folder's path.
std::string FolderName(const std::string& folder) {
  std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  return path.filename().string();
}

int Fail(const absl::Status& status) {
  std::cerr << "quire-worker: " << status.message() << "\n";
  return 2;
}

// The range table of the model's tensors on standard output.
int Inspect(const EngineSettings& settings) {
  const uint32_t threads =
      settings.num_threads != 0 ? settings.num_threads : std::thread::hardware_concurrency();
  const auto ranges = InspectCheckpoint(settings.model_folder, std::max(1u, threads));
  if (!ranges.ok()) return Fail(ranges.status());
  std::cout << RangeTable(*ranges) << std::flush;
  return 0;
}

int Run(int argc, char** argv) {
  BlockTerminationSignals();
  WorkerFlags flags;
  FlagSet flag_set("quire-worker", "Serves a language model to quire-coordinator.");
  DeclareFlags(flag_set, &flags);
  if (const auto exit_code = flag_set.Parse(argc, argv); exit_code.has_value()) return *exit_code;
  if (flags.inspect) return Inspect(flags.engine);
  SetUpLogging("quire-worker", LogLevel::kInfo);
  for (const FlagSet::Value& value : flag_set.values()) {
    LogInfo(absl::StrCat("setting ", value.name, "=", value.value, " (", value.source, ")"));
  }
  if (absl::Status status = CheckFlags(flags); !status.ok()) return Fail(status);
  std::string join_token;
  if (!flags.join_token_file.empty()) {
    auto token = ReadJoinToken(flags.join_token_file);
    if (!token.ok()) return Fail(token.status());
    join_token = *std::move(token);
  }
  const std::string model = flags.served_model_name.empty() ? FolderName(flags.engine.model_folder)
                                                            : flags.served_model_name;
  if (absl::Status status = CheckIdentity("--served-model-name", model); !status.ok()) {
    return Fail(status);
  }
  flags.engine.tenant_weights = *TenantWeightsOf(flags);
  const Credentials credentials(flags.tls);
  RaiseFileLimit();
  const Address listen{flags.host, flags.port};
  const int64_t started = SteadyMicros();
  auto files = ReadModelFiles(flags.engine.model_folder);
  if (!files.ok()) return Fail(files.status());
  auto built = BuildEngine(flags.engine, [](const std::string& line) { LogInfo(line); });
  if (!built.ok()) return Fail(built.status());
  for (const std::string& warning : built->warnings) LogWarning(warning);
  LogInfo(absl::StrFormat("model loaded in %.2f s: %s, %s, numerics_id %s",
                          (SteadyMicros() - started) / 1e6, built->dtype, built->description,
                          built->numerics_id));

  Metrics metrics;
  WorkerMetrics worker_metrics(metrics);
  if (flags.metrics_port != 0) {
    const Address address{flags.host, flags.metrics_port};
    if (absl::Status status = metrics.Serve(address.ToString()); !status.ok()) return Fail(status);
  }

  // The port must be known before the worker can be named, so the server starts first and sessions
  // find a table that is complete: connections come only after coordinators hear of the address.
  worker::v1::WorkerInfo info = MakeInfo(flags, *built, flags.worker_name, model);
  if (flags.worker_name.empty()) {
    info.set_name(flags.advertise_address.empty() ? listen.ToString() : flags.advertise_address);
  }
  // Static, since a thread that waits for signals may outlive this function.
  static std::string fatal;
  static Mutex fatal_mutex;
  SessionTable::Options options;
  options.info = info;
  options.incarnation = MakeIncarnation();
  options.orphan_grace = static_cast<Micros>(flags.orphan_grace_s * 1e6);
  options.clock = SteadyMicros;
  options.on_token_gap = [&](Micros gap, uint32_t num_tokens) {
    worker_metrics.RecordGap(gap, num_tokens);
  };
  options.tenant_weights = flags.engine.tenant_weights;
  options.on_refused = [&] { worker_metrics.refused.Increment(); };
  options.on_load = [&](const worker::v1::Load& load) { worker_metrics.Record(load); };
  options.on_request_end = [&](const SessionTable::RequestRecord& record) {
    worker_metrics.Record(record);
    LogRequest(record);
  };
  options.on_fatal = [&](const absl::Status& status) {
    {
      MutexLock lock(fatal_mutex);
      fatal = status.ToString();
    }
    RequestTermination();
  };

  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto admin = StartAdminServer(flags.admin_address, credentials.server());
  if (!admin.ok()) return Fail(admin.status());
  grpc::EnableDefaultHealthCheckService(true);
  int port = 0;
  SessionTable table(std::move(options));
  EngineLoop loop(std::move(built->engine), std::move(built->executor), &table,
                  size_t{flags.engine.max_queue} + flags.engine.max_num_seqs);
  table.SetInbox(&loop);
  WorkerService service(&table, model, *std::move(files));
  grpc::ServerBuilder builder;
  builder.AddListeningPort(listen.ToString(), credentials.server(), &port);
  builder.RegisterService(&service);
  SetLimits(&builder, kMaxStreams, kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  SetKeepalive(&builder);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) {
    return Fail(absl::UnavailableError(absl::StrCat("cannot listen on ", listen.ToString())));
  }
  const std::string address = Address{flags.host, static_cast<uint16_t>(port)}.ToString();
  const std::string advertised =
      flags.advertise_address.empty() ? address : flags.advertise_address;
  if (flags.worker_name.empty()) table.SetName(advertised);
  server->GetHealthCheckService()->SetServingStatus(model, true);
  loop.Start();

  std::vector<std::unique_ptr<JoinClient>> joins;
  worker::v1::WorkerStatus announcement;
  announcement.set_address(advertised);
  announcement.set_incarnation(table.incarnation());
  *announcement.mutable_worker() = table.info();
  for (const std::string& coordinator : flags.join) {
    joins.push_back(
        std::make_unique<JoinClient>(coordinator, announcement, credentials.channel(), join_token));
  }
  std::unique_ptr<EtcdClient> etcd;
  std::unique_ptr<EtcdAnnouncer> announcer;
  if (!flags.etcd.endpoints.empty()) {
    etcd = std::make_unique<EtcdClient>(flags.etcd.endpoints, credentials.channel());
    announcer = std::make_unique<EtcdAnnouncer>(
        etcd.get(), EtcdAnnouncer::Options{flags.etcd.prefix, announcement, flags.etcd_lease_ttl_s,
                                           join_token, SteadyMicros});
  }
  auto ticker = std::make_unique<Ticker>(kTickMicros, [&] {
    table.Tick();
    if (announcer != nullptr) announcer->Tick();
    const worker::v1::Load load = table.load();
    for (const auto& join : joins) join->Tick(load, load.draining());
  });
  std::cout << "quire-worker listening on " << address << std::endl;
  LogInfo(absl::StrFormat("ready after %.2f s as %s", (SteadyMicros() - started) / 1e6,
                          table.info().name()));

  const auto exit_if_lost = [] {
    MutexLock lock(fatal_mutex);
    if (fatal.empty()) return;
    LogError(absl::StrCat("the device is lost: ", fatal));
    FlushLog(kFatalFlushMicros);
    std::_Exit(kExitFatal);
  };
  Drain drain(admin->get(), flags.drain_timeout_s, exit_if_lost);
  drain.Begin(table.StartDraining());
  server->GetHealthCheckService()->SetServingStatus(false);
  if (table.WaitUntilIdle(drain.deadline())) {
    drain.SetDrained();
  } else {
    drain.SetCut(table.EndAll());
  }
  ticker.reset();
  for (const auto& join : joins) join->Stop();
  if (announcer != nullptr) announcer->Stop();
  // Coordinators that lag behind get what is left of the time to read what was generated. Other
  // calls do not hold up the end.
  table.CloseConnections();
  if (!table.WaitUntilClosed(drain.deadline())) {
    LogWarning("coordinators have not read all that was generated");
  }
  server->Shutdown(SteadyDeadline(kShutdownMicros));
  loop.Stop();
  drain.Finish(table.num_moved());
  return 0;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Run(argc, argv); }
