// quire-coordinator: takes requests from clients and schedules them onto workers.
#include <iostream>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <unistd.h>

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "common/address.h"
#include "common/clock.h"
#include "common/credentials.h"
#include "common/drain.h"
#include "common/etcd/etcd_client.h"
#include "common/join_token.h"
#include "common/keepalive.h"
#include "common/logging.h"
#include "common/metrics.h"
#include "common/rpc_status.h"
#include "common/server_flags.h"
#include "common/server_limits.h"
#include "common/signals.h"
#include "common/steady_deadline.h"
#include "common/ticker.h"
#include "coordinator/metrics.h"
#include "coordinator/registry/etcd_registry.h"
#include "coordinator/registry/placer.h"
#include "coordinator/registry/registry_service.h"
#include "coordinator/registry/worker_registry.h"
#include "coordinator/rpc/describe.h"
#include "coordinator/rpc/generate_server.h"
#include "coordinator/rpc/inference_service.h"
#include "coordinator/stream/stream_table.h"
#include "coordinator/stream/timer_queue.h"
#include "coordinator/stream/work_pool.h"
#include "coordinator/worker_client/grpc_worker_connector.h"

namespace quire {
namespace {

constexpr int64_t kTickMicros = 250'000;
constexpr int64_t kLeastShutdownMicros = 1'000'000;  // for calls that are open still
constexpr double kMaxDrainTimeoutSeconds = 86'400;
constexpr double kMinSuspectTimeoutSeconds = 4e-6 * kTickMicros;
constexpr double kMaxSuspectTimeoutSeconds = 600;
constexpr uint32_t kMaxStreamThreads = 64;
// Calls of one connection.
constexpr int kMaxStreamsPerConnection = 4096;

struct CoordinatorFlags : ServerFlags {
  std::vector<std::string> workers;
  std::string generation_config = "auto";
  double drain_timeout_s = 30;
  double delivery_timeout_s = 60;
  double migration_timeout_s = 30;
  double suspect_timeout_s = 1e-6 * WorkerLink::kSilenceMicros;
  uint32_t quarantine_after = 2;
  uint32_t max_streams = 16384;
  uint32_t tokenizer_threads = 2;
  uint32_t stream_threads = 1;
  bool separate_tenants = false;
};

void Declare(FlagSet& flags, CoordinatorFlags* f) {
  DeclareServerFlags(flags, f);
  flags.Add("worker", &f->workers, "HOST:PORT of a worker that does not announce itself; repeats");
  flags.Add("generation-config", &f->generation_config,
            "auto: generation_config.json gives the defaults of sampling; none: it does not");
  flags.Add("max-streams", &f->max_streams, "Requests that may be open at once");
  flags.Add("tokenizer-threads", &f->tokenizer_threads, "Threads that tokenize prompts");
  flags
      .Add("stream-threads", &f->stream_threads,
           "Threads that write to clients; the busier one is, the more tokens a message has")
      ->check(NumberFrom(1, kMaxStreamThreads));
  flags
      .Add("migration-timeout", &f->migration_timeout_s,
           "Seconds that a request which lost its worker waits for another with the same numerics")
      ->check(NumberFrom(0, kMaxDrainTimeoutSeconds));
  flags
      .Add("suspect-timeout", &f->suspect_timeout_s,
           "Seconds without a word from a worker after which its requests go on elsewhere")
      ->check(NumberFrom(kMinSuspectTimeoutSeconds, kMaxSuspectTimeoutSeconds));
  flags.Add("quarantine-after", &f->quarantine_after,
            "Workers lost with a request after which it runs alone, and ends if it loses one more; "
            "0: never");
  flags.AddSwitch("separate-tenants", &f->separate_tenants,
                  "Share cached prefixes only within a tenant, as if it were part of cache_salt");
  flags
      .Add("delivery-timeout", &f->delivery_timeout_s,
           "Seconds that a client gets to read what is left once its request has ended")
      ->check(NumberFrom(1, kMaxDrainTimeoutSeconds));
  flags.Add("drain-timeout", &f->drain_timeout_s, "Seconds that open requests get after SIGTERM")
      ->check(NumberFrom(0, kMaxDrainTimeoutSeconds));
}

int Fail(const absl::Status& status) {
  std::cerr << "quire-coordinator: " << status.message() << "\n";
  return 2;
}

absl::Status Check(const CoordinatorFlags& flags) {
  if (absl::Status s = CheckServerFlags(flags); !s.ok()) return s;
  for (const std::string& worker : flags.workers) {
    if (const auto address = ParseAddress(worker); !address.ok()) return address.status();
  }
  if (flags.generation_config != "auto" && flags.generation_config != "none") {
    return absl::InvalidArgumentError(
        absl::StrCat("--generation-config ", flags.generation_config, ": auto or none is allowed"));
  }
  if (flags.tokenizer_threads == 0 || flags.tokenizer_threads > 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tokenizer-threads ", flags.tokenizer_threads, ": 1 to 256 is allowed"));
  }
  if (flags.max_streams == 0) return absl::InvalidArgumentError("--max-streams 0: at least 1");
  return absl::OkStatus();
}

std::string MakeCoordinatorId() {
  std::random_device device;
  return absl::StrFormat("%08x%08x-%d", device(), device(), getpid());
}

// Tells health checkers which models can be served now. "" is the coordinator itself.
class HealthReporter {
 public:
  explicit HealthReporter(grpc::HealthCheckServiceInterface* health) : health_(health) {}
  void Update(const std::vector<WorkerView>& views) {
    std::set<std::string> serving;
    for (const v1::Model& model : ListServedModels(views)) serving.insert(model.id());
    for (const std::string& model : serving) health_->SetServingStatus(model, true);
    for (const std::string& model : known_) {
      if (!serving.contains(model)) health_->SetServingStatus(model, false);
    }
    known_.insert(serving.begin(), serving.end());
  }

 private:
  grpc::HealthCheckServiceInterface* const health_;
  std::set<std::string> known_;
};

int Run(int argc, char** argv) {
  BlockTerminationSignals();
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  CoordinatorFlags flags;
  FlagSet flag_set("quire-coordinator", "Schedules generation requests onto quire-workers.");
  Declare(flag_set, &flags);
  if (const auto exit_code = flag_set.Parse(argc, argv); exit_code.has_value()) return *exit_code;
  SetUpLogging("quire-coordinator", LogLevel::kInfo);
  for (const FlagSet::Value& value : flag_set.values()) {
    LogInfo(absl::StrCat("setting ", value.name, "=", value.value, " (", value.source, ")"));
  }
  if (absl::Status status = Check(flags); !status.ok()) return Fail(status);
  std::string join_token;
  if (!flags.join_token_file.empty()) {
    auto token = ReadJoinToken(flags.join_token_file);
    if (!token.ok()) return Fail(token.status());
    join_token = *std::move(token);
  }
  const Credentials credentials(flags.tls);
  RaiseFileLimit();

  Metrics metrics;
  CoordinatorMetrics coordinator_metrics(metrics);
  if (flags.metrics_port != 0) {
    const Address address{flags.host, flags.metrics_port};
    if (absl::Status status = metrics.Serve(address.ToString()); !status.ok()) return Fail(status);
  }

  const std::string coordinator_id = MakeCoordinatorId();
  TimerQueue timers;
  ModelCatalog catalog({.use_generation_config = flags.generation_config == "auto"});
  WorkPool work_pool(flags.tokenizer_threads, /*max_queued=*/4096);
  WorkPool read_pool(/*num_threads=*/1, /*max_queued=*/4096);
  // Models load beside the requests, not among them.
  WorkPool loader(/*num_threads=*/1, /*max_queued=*/WorkerRegistry::kMaxWorkers);
  WorkerRegistry registry({coordinator_id, &timers, &loader, &catalog, nullptr,
                           static_cast<int64_t>(flags.suspect_timeout_s * 1e6)},
                          [channel = credentials.channel()](const std::string& address) {
                            return MakeGrpcWorkerConnector(address, channel);
                          });
  Placer placer(&registry, &timers);
  StreamTable streams(flags.max_streams);

  InferenceService::Context context{&registry,  &placer, &streams, &work_pool,
                                    &read_pool, {},      nullptr};
  context.stream.placer = &placer;
  context.stream.timers = &timers;
  context.stream.move_timeout = static_cast<int64_t>(flags.migration_timeout_s * 1e6);
  context.stream.quarantine_after = flags.quarantine_after;
  context.stream.on_quarantined = [&](RequestStream& stream) { streams.Quarantine(stream); };
  context.stream.on_end = [&](RequestStream& stream, const RequestRecord& record) {
    streams.OnEnd(stream, record.status);
    coordinator_metrics.OnEnd(record);
    LogRequest(record);
  };
  context.on_refused = [&](const RequestRecord& record) {
    coordinator_metrics.OnRefused(record);
    LogRequest(record);
  };
  context.stream.on_first_token = [&](int64_t micros) { coordinator_metrics.OnFirstToken(micros); };
  context.stream.on_token_gap = [&](int64_t micros, uint32_t num_tokens) {
    coordinator_metrics.OnTokenGap(micros, num_tokens);
  };
  context.delivery_timeout = static_cast<int64_t>(flags.delivery_timeout_s * 1e6);
  context.separate_tenants = flags.separate_tenants;
  InferenceService inference(context);
  RegistryService registry_service(&registry, coordinator_id, join_token);

  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto admin = StartAdminServer(flags.admin_address, credentials.server());
  if (!admin.ok()) return Fail(admin.status());
  grpc::EnableDefaultHealthCheckService(true);
  const Address listen{flags.host, flags.port};
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(listen.ToString(), credentials.server(), &port);
  builder.RegisterService(&inference);
  builder.RegisterService(&registry_service);
  SetLimits(&builder, kMaxStreamsPerConnection, kMaxPublicMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  SetKeepalive(&builder);
  auto generate_server =
      std::make_unique<GenerateServer>(&inference, &builder, flags.stream_threads);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return Fail(absl::UnavailableError(absl::StrCat("cannot listen on ", listen.ToString())));
  }

  generate_server->Start();

  for (const std::string& worker : flags.workers) registry.AddStatic(worker);
  std::unique_ptr<EtcdClient> etcd;
  std::unique_ptr<EtcdRegistry> etcd_registry;
  if (!flags.etcd.endpoints.empty()) {
    etcd = std::make_unique<EtcdClient>(flags.etcd.endpoints, credentials.channel());
    etcd_registry = std::make_unique<EtcdRegistry>(
        etcd.get(), &registry, EtcdRegistry::Options{flags.etcd.prefix, join_token, SteadyMicros});
  }
  HealthReporter health(server->GetHealthCheckService());
  auto ticker = std::make_unique<Ticker>(kTickMicros, [&] {
    registry.Tick();
    if (etcd_registry != nullptr) etcd_registry->Tick();
    health.Update(registry.Views());
    coordinator_metrics.SetRunning(streams.num_live());
  });

  const std::string address = Address{flags.host, static_cast<uint16_t>(port)}.ToString();
  std::cout << "quire-coordinator listening on " << address << std::endl;
  LogInfo(absl::StrCat("coordinator ", coordinator_id, " listens on ", address));

  Drain drain(admin->get(), flags.drain_timeout_s);
  drain.Begin(streams.StartDraining());
  server->GetHealthCheckService()->Shutdown();  // NOT_SERVING from now on, whatever is set
  if (streams.WaitUntilIdle(drain.deadline())) {
    drain.SetDrained();
  } else {
    drain.SetCut(streams.EndAll(
        WithRetryDelay(absl::UnavailableError("the coordinator shut down"), kRetryDelayMs)));
  }
  // What may still call into a part ends before it.
  ticker.reset();
  if (etcd_registry != nullptr) etcd_registry->Stop();
  registry_service.CloseJoins();
  // Clients that read slowly get what is left of the time to take what was generated. Other calls,
  // such as a Watch of the health that never ends, do not hold up the end.
  streams.WaitUntilRead(drain.deadline());
  server->Shutdown(SteadyDeadline(kLeastShutdownMicros));
  generate_server.reset();
  read_pool.Stop();
  work_pool.Stop();
  loader.Stop();
  registry.Shutdown();
  drain.Finish(/*num_moved=*/0);
  return 0;
}

}  // namespace
}  // namespace quire

int main(int argc, char** argv) { return quire::Run(argc, argv); }
