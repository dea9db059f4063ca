#include "worker/engine_factory.h"

#include <algorithm>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "scheduler/batch/batch_scheduler.h"
#include "scheduler/batch/serial_scheduler.h"
#include "worker/device/cpu/cpu_executor.h"
#include "worker/device/cpu/cpu_ranks.h"
#ifdef QUIRE_CUDA
#include "worker/device/cuda/cuda_executor.h"
#include "worker/device/cuda/cuda_ranks.h"
#include "worker/device/cuda/device_info.h"
#endif
#include "worker/device/fake/fake_executor.h"
#include "worker/device/fake/lost_device.h"
#ifdef QUIRE_TORCH
#include "worker/device/torch_baseline/torch_baseline_executor.h"
#endif
#include "worker/engine/request_engine.h"
#include "worker/model/model_config.h"
#include "worker/model/numerics_id.h"
#include "worker/model/weights.h"
#include "worker/usable_memory.h"

namespace quire {
namespace {

// A KV pool beyond this is asked for by flag.
constexpr uint64_t kMaxDefaultKvBytes = uint64_t{2} << 30;

// Positions a step: enough to fill the device, few enough that decodes beside a prompt stay steady.
constexpr uint32_t kDefaultBatchedTokens = 512;
constexpr uint32_t kDefaultCudaBatchedTokens = 8192;

// The fake engine's pool, which has no memory behind it.
constexpr uint64_t kMaxFakeBlocks = 1 << 24;

PrefixHashKey RandomHashKey() {
  std::random_device device;
  const auto word = [&device] { return uint64_t{device()} << 32 | device(); };
  return {word(), word()};
}

std::unique_ptr<Engine> MakePagedEngine(const EngineSettings& settings,
                                        const ExecutorLimits& limits) {
  BatchScheduler::Options options;
  options.kv.num_blocks = limits.num_blocks;
  options.kv.block_size = limits.block_size;
  options.kv.enable_prefix_caching = settings.enable_prefix_caching;
  options.kv.hash_key = RandomHashKey();
  options.max_num_seqs = limits.num_slots;
  options.max_num_batched_tokens = limits.max_num_batched_tokens;
  options.max_queue = settings.max_queue;
  options.kv_bytes_per_token = limits.kv_bytes_per_token;
  options.priority_aging = Micros{settings.priority_aging_ms} * 1000;
  options.weights = settings.tenant_weights;
  return std::make_unique<RequestEngine>(
      RequestEngine::Options{limits.context_length, limits.vocabulary_size},
      std::make_unique<BatchScheduler>(options));
}

absl::StatusOr<std::optional<DType>> ParseDType(const std::string& name) {
  if (name == "auto") return std::optional<DType>();
  if (name == "fp32" || name == "float32") return std::optional<DType>(DType::kF32);
  if (name == "bf16" || name == "bfloat16") return std::optional<DType>(DType::kBF16);
  return absl::InvalidArgumentError(
      absl::StrCat("--dtype ", name, ": auto, fp32 or bf16 is allowed"));
}

// Room for every sequence at full length, within a quarter of the usable memory and the cap;
// never less than one sequence.
uint64_t DefaultKvBytes(uint64_t bytes_per_token, uint64_t context, uint64_t max_num_seqs) {
  const uint64_t wanted = bytes_per_token * context * max_num_seqs;
  const uint64_t least = bytes_per_token * (context + 256);
  return std::max(least, std::min({wanted, UsableMemoryBytes() / 4, kMaxDefaultKvBytes}));
}

BuiltEngine BuildFake(const EngineSettings& settings, const ModelConfig& config, uint32_t context) {
  ExecutorLimits limits;
  limits.num_slots = settings.max_num_seqs;
  limits.max_num_batched_tokens = std::max(settings.max_num_batched_tokens, settings.max_num_seqs);
  limits.context_length = context;
  limits.vocabulary_size = config.vocab_size;
  limits.block_size = settings.block_size;
  const uint64_t room =
      uint64_t{settings.max_num_seqs} * (uint64_t{context} / settings.block_size + 1);
  limits.num_blocks = settings.num_gpu_blocks_override != 0
                          ? settings.num_gpu_blocks_override
                          : static_cast<uint32_t>(std::min<uint64_t>(room, kMaxFakeBlocks));
  limits.kv_bytes_per_token = 1;
  FakeExecutor::Options options;
  options.limits = limits;
  options.reads_whole_context = false;
  options.step_time = std::chrono::microseconds(settings.fake_step_us);
  BuiltEngine built;
  built.engine = MakePagedEngine(settings, limits);
  built.executor = std::make_unique<FakeExecutor>(options);
  built.dtype = "fp32";
  built.numerics_id = "fake";
  built.description = "fake device";
  return built;
}

// The GPU that the engine is to run on, by its name; empty: the CPU. Where this build could have
// used a GPU and "auto" found none, `warnings` gets why. FAILED_PRECONDITION: it must be a GPU, and
// cannot.
absl::StatusOr<std::string> FindGpu(const EngineSettings& settings,
                                    [[maybe_unused]] std::vector<std::string>* warnings) {
  if (settings.device != "auto" && settings.device != "cpu" && settings.device != "cuda") {
    return absl::InvalidArgumentError(
        absl::StrCat("--device ", settings.device, ": auto, cpu or cuda is allowed"));
  }
  if (settings.device == "cpu" || settings.engine == "fake") return std::string();
#ifdef QUIRE_CUDA
  const auto device = cuda::FindDevice(0);
  if (device.ok()) return device->name;
  if (settings.device == "auto") {
    warnings->push_back(absl::StrCat("--device auto takes the CPU: ", device.status().message()));
    return std::string();
  }
  return absl::FailedPreconditionError(absl::StrCat("--device cuda: ", device.status().message()));
#else
  if (settings.device == "auto") return std::string();
  return absl::FailedPreconditionError("--device cuda: this build is without CUDA");
#endif
}

// The KV pool's size, where one is asked for, holds a block.
absl::Status CheckKvBytes(const EngineSettings& settings, uint64_t bytes_per_block) {
  if (settings.kv_cache_memory_bytes == 0 || settings.kv_cache_memory_bytes >= bytes_per_block) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("--kv-cache-memory-bytes ",
                                                 settings.kv_cache_memory_bytes, ": a block has ",
                                                 bytes_per_block, " bytes"));
}

uint64_t KvBytesPerToken(const ModelConfig& config, DType dtype) {
  return uint64_t{2} * config.num_layers * config.kv_size() * SizeOf(dtype);
}

std::string DescribeKvPool(const ExecutorLimits& limits) {
  return absl::StrCat(
      "KV pool ", limits.num_blocks, " blocks of ", limits.block_size, " tokens, ",
      uint64_t{limits.num_blocks} * limits.block_size * limits.kv_bytes_per_token >> 20, " MiB");
}

// An executor that pages, and what else is known of it.
struct PagedDevice {
  std::unique_ptr<ModelExecutor> executor;
  NumericsParts numerics_parts;
  std::string name;  // "NVIDIA H200", "CPU, 2 threads, avx2"
};

template <typename Executor>
PagedDevice Describe(std::unique_ptr<Executor> executor, const std::string& name) {
  PagedDevice device;
  device.numerics_parts = executor->numerics_parts();
  device.name = name;
  device.executor = std::move(executor);
  return device;
}

// The same of a tensor-parallel group, whose ranks have executors of one type. What rank 0 says of
// numerics holds for the group.
template <typename Executor>
PagedDevice DescribeRanks(std::unique_ptr<RankGroupExecutor> ranks, const std::string& name) {
  PagedDevice device;
  device.numerics_parts = static_cast<Executor&>(ranks->rank(0)).numerics_parts();
  device.name = absl::StrCat(ranks->size(), " ranks, ", name);
  device.executor = std::move(ranks);
  return device;
}

void LoseDeviceAt(uint64_t step, std::unique_ptr<ModelExecutor>* executor) {
  const auto wrap = [step](std::unique_ptr<ModelExecutor> device) {
    return std::make_unique<LostDevice>(std::move(device), step);
  };
  if (auto* const ranks = dynamic_cast<RankGroupExecutor*>(executor->get())) {
    ranks->WrapRankForTest(ranks->size() - 1, wrap);
  } else {
    *executor = wrap(std::move(*executor));
  }
}

// The engine around it.
BuiltEngine AssemblePaged(const EngineSettings& settings, const Weights& weights, uint32_t threads,
                          PagedDevice device) {
  NumericsParts parts = ModelNumericsParts(weights, threads);
  for (auto& part : device.numerics_parts) parts.push_back(std::move(part));
  BuiltEngine built;
  built.numerics_id = NumericsId(parts);
  std::unique_ptr<ModelExecutor>& executor = device.executor;
  built.description = absl::StrCat(device.name, ", weights ", weights.num_bytes() >> 20, " MiB, ",
                                   DescribeKvPool(executor->limits()));
  built.engine = MakePagedEngine(settings, executor->limits());
  built.executor = std::move(executor);
  return built;
}

#ifdef QUIRE_CUDA
absl::StatusOr<BuiltEngine> BuildPagedCuda(const EngineSettings& settings,
                                           const ModelConfig& config, uint32_t context,
                                           uint32_t threads, std::shared_ptr<const Weights> weights,
                                           const BuildProgress& progress) {
  const uint64_t bytes_per_block = KvBytesPerToken(config, weights->dtype()) * settings.block_size;
  if (absl::Status status = CheckKvBytes(settings, bytes_per_block); !status.ok()) return status;
  CudaExecutorOptions options;
  options.num_slots = settings.max_num_seqs;
  options.max_num_batched_tokens = settings.max_num_batched_tokens;
  options.context_length = context;
  options.block_size = settings.block_size;
  options.num_blocks = settings.num_gpu_blocks_override;
  options.kv_cache_bytes = settings.kv_cache_memory_bytes;
  options.gpu_memory_utilization = settings.gpu_memory_utilization;
  options.use_graphs = settings.use_graphs;
  options.exact = settings.exact;
  PagedDevice device;
  if (settings.tensor_parallel_size > 1) {
    auto ranks = CreateCudaRanks(options, settings.tensor_parallel_size, *weights, progress);
    if (!ranks.ok()) return ranks.status();
    const std::string name = static_cast<const CudaExecutor&>((*ranks)->rank(0)).device_name();
    device = DescribeRanks<CudaExecutor>(*std::move(ranks), name);
  } else {
    auto executor = CudaExecutor::Create(options, *weights, progress);
    if (!executor.ok()) return executor.status();
    const std::string name = (*executor)->device_name();
    device = Describe(*std::move(executor), name);
  }
  return AssemblePaged(settings, *weights, threads, std::move(device));
}
#endif

absl::StatusOr<BuiltEngine> BuildPagedCpu(const EngineSettings& settings, const ModelConfig& config,
                                          uint32_t context, uint32_t threads,
                                          std::shared_ptr<const Weights> weights) {
  if (!settings.exact) {
    return absl::InvalidArgumentError("exact: on the CPU there is no faster setting without");
  }
  CpuExecutorOptions options;
  options.num_threads = static_cast<int>(threads);
  options.num_slots = settings.max_num_seqs;
  options.max_num_batched_tokens = settings.max_num_batched_tokens;
  options.context_length = context;
  options.block_size = settings.block_size;
  options.num_blocks = settings.num_gpu_blocks_override;
  const uint64_t bytes_per_token = KvBytesPerToken(config, weights->dtype());
  absl::Status status = CheckKvBytes(settings, bytes_per_token * settings.block_size);
  if (!status.ok()) return status;
  options.kv_cache_bytes = settings.kv_cache_memory_bytes != 0
                               ? settings.kv_cache_memory_bytes
                               : DefaultKvBytes(bytes_per_token, context, settings.max_num_seqs);
  const auto name_of = [threads](const CpuExecutor& executor) {
    return absl::StrCat("CPU, ", threads, " threads, ", std::string(IsaName(executor.isa())));
  };
  PagedDevice device;
  if (settings.tensor_parallel_size > 1) {
    auto ranks = CreateCpuRanks(options, settings.tensor_parallel_size, weights);
    if (!ranks.ok()) return ranks.status();
    const std::string name = name_of(static_cast<const CpuExecutor&>((*ranks)->rank(0)));
    device = DescribeRanks<CpuExecutor>(*std::move(ranks), name);
  } else {
    auto executor = CpuExecutor::Create(options, weights);
    if (!executor.ok()) return executor.status();
    const std::string name = name_of(**executor);
    device = Describe(*std::move(executor), name);
  }
  return AssemblePaged(settings, *weights, threads, std::move(device));
}

absl::StatusOr<BuiltEngine> BuildBaseline(const EngineSettings& settings, uint32_t context,
                                          uint32_t threads, const std::string& gpu,
                                          std::shared_ptr<const Weights> weights) {
#ifdef QUIRE_TORCH
  if (settings.baseline_cache != "dynamic" && settings.baseline_cache != "static") {
    return absl::InvalidArgumentError(absl::StrCat("--baseline-cache ", settings.baseline_cache,
                                                   ": dynamic or static is allowed"));
  }
  TorchBaselineOptions options;
  options.device = gpu.empty() ? BaselineDevice::kCpu : BaselineDevice::kCuda;
  options.cache =
      settings.baseline_cache == "static" ? BaselineCache::kStatic : BaselineCache::kDynamic;
  options.context_length = context;
  options.num_threads = threads;
  auto executor = TorchBaselineExecutor::Create(weights, options);
  if (!executor.ok()) return executor.status();
  NumericsParts parts = ModelNumericsParts(*weights, threads);
  for (auto& part : (*executor)->numerics_parts()) parts.push_back(std::move(part));
  if (!gpu.empty()) parts.push_back({"gpu", gpu});
  BuiltEngine built;
  built.numerics_id = NumericsId(parts);
  built.kv_cache = settings.baseline_cache;
  built.description = absl::StrCat(
      "libtorch on ", gpu.empty() ? absl::StrCat("the CPU, ", threads, " threads") : gpu,
      ", weights ", weights->num_bytes() >> 20, " MiB, ", settings.baseline_cache, " KV cache");
  built.engine = std::make_unique<RequestEngine>(
      RequestEngine::Options{context, weights->config().vocab_size},
      std::make_unique<SerialScheduler>(settings.max_queue,
                                        (*executor)->limits().kv_bytes_per_token));
  built.executor = *std::move(executor);
  return built;
#else
  return absl::UnimplementedError(
      "--engine baseline: this build is without libtorch (QUIRE_TORCH=OFF)");
#endif
}

}  // namespace

absl::StatusOr<BuiltEngine> BuildEngine(const EngineSettings& asked,
                                        const BuildProgress& progress) {
  EngineSettings settings = asked;
  if (settings.engine != "paged" && settings.engine != "baseline" && settings.engine != "fake") {
    return absl::InvalidArgumentError(
        absl::StrCat("--engine ", settings.engine, ": paged or baseline is allowed"));
  }
  std::vector<std::string> device_warnings;
  const absl::StatusOr<std::string> gpu = FindGpu(settings, &device_warnings);
  if (!gpu.ok()) return gpu.status();
  if (settings.max_num_batched_tokens == 0) {
    settings.max_num_batched_tokens = std::max(
        settings.max_num_seqs, gpu->empty() ? kDefaultBatchedTokens : kDefaultCudaBatchedTokens);
  }
  if (settings.max_num_batched_tokens < settings.max_num_seqs) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max-num-batched-tokens ", settings.max_num_batched_tokens, ": at least --max-num-seqs, ",
        settings.max_num_seqs, ", so that every sequence can decode in a step"));
  }
  if (settings.block_size == 0) return absl::InvalidArgumentError("--block-size 0: at least 1");
  if (settings.tensor_parallel_size != 1 && settings.engine != "paged") {
    return absl::InvalidArgumentError(absl::StrCat("--tensor-parallel-size ",
                                                   settings.tensor_parallel_size,
                                                   ": the paged engine alone has ranks"));
  }
  auto description = LoadModelDescription(settings.model_folder);
  if (!description.ok()) return description.status();
  const ModelConfig& config = description->config;
  const uint32_t context =
      settings.max_model_len != 0 ? settings.max_model_len : config.max_position_embeddings;
  if (context > config.max_position_embeddings) {
    return absl::InvalidArgumentError(absl::StrCat("--max-model-len ", context,
                                                   ": the model's max_position_embeddings is ",
                                                   config.max_position_embeddings));
  }
  const uint32_t threads = settings.num_threads != 0
                               ? settings.num_threads
                               : std::max(1u, std::thread::hardware_concurrency());
  absl::StatusOr<BuiltEngine> built;
  if (settings.engine == "fake") {
    built = BuildFake(settings, config, context);
  } else {
    auto dtype = ParseDType(settings.dtype);
    if (!dtype.ok()) return dtype.status();
    if (settings.load_format != "auto" && settings.load_format != "safetensors" &&
        settings.load_format != "dummy") {
      return absl::InvalidArgumentError(absl::StrCat("--load-format ", settings.load_format,
                                                     ": auto, safetensors or dummy is allowed"));
    }
    LoadOptions load;
    load.format = settings.load_format == "dummy" ? LoadFormat::kDummy : LoadFormat::kSafetensors;
    load.dtype = !gpu->empty() && !dtype->has_value() ? DType::kBF16 : *dtype;
    load.allow_overflow = settings.allow_overflow;
    load.num_threads = threads;
    auto weights = Weights::Load(settings.model_folder, config, load);
    if (!weights.ok()) return weights.status();
    if (settings.engine == "baseline") {
      built = BuildBaseline(settings, context, threads, *gpu, *weights);
    } else if (gpu->empty()) {
      built = BuildPagedCpu(settings, config, context, threads, *weights);
    } else {
#ifdef QUIRE_CUDA
      built = BuildPagedCuda(settings, config, context, threads, *weights, progress);
#endif
    }
    if (!built.ok()) return built.status();
    if (settings.lose_device_at_step > 0) {
      LoseDeviceAt(settings.lose_device_at_step, &built->executor);
    }
    built->dtype = (*weights)->dtype() == DType::kF32 ? "fp32" : "bf16";
    built->warnings = (*weights)->warnings();
  }
  built->warnings.insert(built->warnings.begin(), description->warnings.begin(),
                         description->warnings.end());
  built->warnings.insert(built->warnings.begin(), device_warnings.begin(), device_warnings.end());
  return built;
}

}  // namespace quire
