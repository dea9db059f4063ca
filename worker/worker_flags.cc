#include "worker/worker_flags.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/address.h"
#include "common/worker_identity.h"

namespace quire {
namespace {

// Far beyond any use, and far from where sums of them would wrap.
constexpr double kMaxNumSeqs = 1 << 16;
constexpr double kMaxQueue = 1 << 20;
constexpr double kMaxRanks = 64;
constexpr double kMaxAgingMs = 86'400'000;
// etcd grants no less than twice the time that its members take to elect a leader.
constexpr double kMinLeaseSeconds = 2;
constexpr double kMaxLeaseSeconds = 3600;
constexpr double kMaxSeconds = 365 * 86'400;

absl::Status CheckAddress(const char* flag, const std::string& text) {
  const absl::StatusOr<Address> address = ParseAddress(text);
  if (address.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", address.status().message()));
}

}  // namespace

void DeclareFlags(FlagSet& flags, WorkerFlags* f) {
  EngineSettings& e = f->engine;
  flags.Add("model", &e.model_folder, "Folder of the model, in Hugging Face format")->required();
  flags.Add("served-model-name", &f->served_model_name, "Name for clients; default: the folder's");
  flags.Add("engine", &e.engine, "paged (continuous batching) or baseline (one request at a time)");
  flags.Add("device", &e.device, "auto (a GPU where there is one), cpu or cuda");
  flags.Add("dtype", &e.dtype, "auto (the checkpoint's; on a GPU bf16), fp32 or bf16");
  flags.Add("load-format", &e.load_format, "auto, or dummy: random weights from config.json alone");
  flags.AddSwitch("allow-overflow", &e.allow_overflow,
                  "Clamp weights that the dtype cannot hold instead of failing");
  flags.Add("baseline-cache", &e.baseline_cache,
            "The baseline's KV cache: dynamic (grows) or static (reserved at full length)");
  flags.Add("max-model-len", &e.max_model_len, "Context in tokens; 0: the model's");
  flags.Add("max-num-seqs", &e.max_num_seqs, "Sequences that run at once")
      ->check(NumberFrom(1, kMaxNumSeqs));
  flags.Add("max-num-batched-tokens", &e.max_num_batched_tokens,
            "Token positions a step; 0: 512 on a CPU, 8,192 on a GPU");
  flags.Add("max-queue", &e.max_queue, "Sequences taken beyond max-num-seqs")
      ->check(NumberFrom(1, kMaxQueue));
  flags
      .Add("priority-aging-ms", &e.priority_aging_ms,
           "Milliseconds of waiting that make up for a point of priority; 0: priorities are strict")
      ->check(NumberFrom(0, kMaxAgingMs));
  flags.Add("tenant-weight", &f->tenant_weights,
            "NAME=WEIGHT, 1 to 1000: a tenant's share against others', which have 1; repeats");
  flags.Add("block-size", &e.block_size, "Tokens a KV block");
  flags.Add("kv-cache-memory-bytes", &e.kv_cache_memory_bytes, "Size of the KV pool; 0: a default");
  flags
      .Add("gpu-memory-utilization", &e.gpu_memory_utilization,
           "Share of the GPU's memory for weights, KV pool and all else")
      ->check(NumberFrom(0.01, 1));
  flags.Add("num-gpu-blocks-override", &e.num_gpu_blocks_override,
            "Number of KV blocks; 0: from the size");
  flags.AddSwitch("enable-prefix-caching", &e.enable_prefix_caching,
                  "Reuse KV blocks of equal prefixes");
  flags
      .Add("tensor-parallel-size", &e.tensor_parallel_size,
           "Ranks that share the model, a GPU each; the tokens are those of one")
      ->check(NumberFrom(1, kMaxRanks));
  flags.Add("num-threads", &e.num_threads, "Kernel threads; 0: one a core");
  flags.Add("fake-step-us", &e.fake_step_us, "Microseconds a step of the fake engine takes")
      ->group("");
  flags
      .Add("lose-device-at-step", &e.lose_device_at_step,
           "For tests: the step at which the device, or the last rank's, is lost")
      ->group("");
  DeclareServerFlags(flags, f);
  flags.Add("join", &f->join, "HOST:PORT of a coordinator to announce this worker to; repeats");
  flags
      .Add("etcd-lease-ttl", &f->etcd_lease_ttl_s,
           "Seconds that the announcement in etcd outlives this worker, or its way to etcd")
      ->check(NumberFrom(kMinLeaseSeconds, kMaxLeaseSeconds));
  flags.Add("worker-name", &f->worker_name, "Name in GetLoad; default: the advertised address");
  flags.Add("advertise-address", &f->advertise_address,
            "HOST:PORT where coordinators reach this worker; default: where it listens");
  flags
      .Add("drain-timeout", &f->drain_timeout_s, "Seconds that running requests get after SIGTERM")
      ->check(NumberFrom(0, kMaxSeconds));
  flags
      .Add("orphan-grace", &f->orphan_grace_s,
           "Seconds that the requests of a lost coordinator live on")
      ->check(NumberFrom(0, kMaxSeconds));
  flags.AddSwitch(
      "inspect", &f->inspect,
      "Print the range of each of the model's tensors, what bf16 and fp16 could not hold "
      "of it, and exit");
}

absl::StatusOr<TenantWeights> TenantWeightsOf(const WorkerFlags& flags) {
  TenantWeights weights;
  for (const std::string& text : flags.tenant_weights) {
    const size_t sign = text.rfind('=');
    uint32_t weight = 0;
    if (sign == std::string::npos || !absl::SimpleAtoi(text.substr(sign + 1), &weight) ||
        weight == 0 || weight > TenantWeights::kMost) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tenant-weight: ", text,
                       ": NAME=WEIGHT is allowed, with a weight of 1 to ", TenantWeights::kMost));
    }
    if (!weights.by_tenant.emplace(text.substr(0, sign), weight).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tenant-weight: ", text.substr(0, sign), " has two weights"));
    }
  }
  return weights;
}

absl::Status CheckFlags(const WorkerFlags& flags) {
  if (absl::Status status = CheckServerFlags(flags); !status.ok()) return status;
  if (const auto weights = TenantWeightsOf(flags); !weights.ok()) return weights.status();
  for (const std::string& text : flags.join) {
    if (absl::Status status = CheckAddress("join", text); !status.ok()) return status;
    const bool in_the_clear = !flags.join_token_file.empty() && !flags.tls.given();
    if (in_the_clear && !flags.insecure && !ParseAddress(text)->is_loopback()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "--join ", text,
          ": refusing to send the token of --join-token-file there without encryption: "
          "give --tls-cert, --tls-key and --tls-ca, or --insecure to allow it"));
    }
  }
  if (!flags.worker_name.empty()) {
    if (absl::Status s = CheckIdentity("--worker-name", flags.worker_name); !s.ok()) return s;
  }
  if (!flags.advertise_address.empty()) {
    return CheckAddress("advertise-address", flags.advertise_address);
  }
  const bool announces = !flags.join.empty() || !flags.etcd.endpoints.empty();
  if (announces && (flags.host == "0.0.0.0" || flags.host == "::")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--host ", flags.host, " with ", flags.join.empty() ? "--etcd-endpoints" : "--join",
        " needs --advertise-address: the HOST:PORT where "
        "coordinators reach this worker"));
  }
  return absl::OkStatus();
}

}  // namespace quire
