#ifndef QUIRE_WORKER_ENGINE_FACTORY_H_
#define QUIRE_WORKER_ENGINE_FACTORY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/tenant_weights.h"
#include "worker/engine/engine.h"
#include "worker/engine/model_executor.h"

namespace quire {

// What a worker is to run. Values are as the flags of quire-worker give them, within the ranges
// that worker_flags.cc gives those; zero means "the default", which BuildEngine resolves.
struct EngineSettings {
  std::string model_folder;
  std::string engine = "paged";  // paged, baseline, or fake: no model, for tests of the service
  std::string device = "auto";   // auto (cuda where this build and the machine have it), cpu, cuda
  std::string dtype = "auto";    // auto (the checkpoint's; on a GPU bf16), fp32, bf16
  std::string load_format = "auto";        // auto (safetensors), dummy
  std::string baseline_cache = "dynamic";  // dynamic, static
  bool allow_overflow = false;
  uint32_t max_model_len = 0;  // tokens; default: the model's
  uint32_t max_num_seqs = 256;
  uint32_t max_num_batched_tokens = 0;  // default: 512 on a CPU, 8,192 on a GPU
  uint32_t max_queue = 1024;
  uint32_t priority_aging_ms = 1000;  // of waiting that make up for a point of priority; 0: none do
  TenantWeights tenant_weights;
  uint32_t block_size = 16;  // tokens
  uint64_t kv_cache_memory_bytes = 0;
  double gpu_memory_utilization = 0.9;   // share of a GPU's memory that all of it together may take
  uint32_t num_gpu_blocks_override = 0;  // vLLM's name for the number of KV blocks, on any device
  bool enable_prefix_caching = true;
  // Ranks that share the model (paged): GPUs, or on the CPU parts of the threads.
  uint32_t tensor_parallel_size = 1;
  // For measurements on a GPU; no flag of a worker's.
  bool use_graphs = true;     // off: every kernel is launched by itself
  bool exact = true;          // off: gives up E1 and E2 (CudaExecutorOptions)
  uint32_t num_threads = 0;   // default: one a core
  uint32_t fake_step_us = 0;  // how long a step of the fake engine takes
  // For tests: the step at which the device, or that of the last rank, is lost; 0: never.
  uint32_t lose_device_at_step = 0;
};

struct BuiltEngine {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<ModelExecutor> executor;
  std::string dtype;     // "fp32", "bf16"
  std::string kv_cache;  // "dynamic" or "static" for the baseline
  std::string numerics_id;
  std::string description;  // one line for the log: device, threads, memory
  std::vector<std::string> warnings;
};

// Hears a line for each stage of a start that takes long.
using BuildProgress = std::function<void(const std::string& line)>;

// Loads the model and builds the engine. The one place that knows every device. `progress` may be
// empty.
absl::StatusOr<BuiltEngine> BuildEngine(const EngineSettings& settings,
                                        const BuildProgress& progress);

}  // namespace quire

#endif  // QUIRE_WORKER_ENGINE_FACTORY_H_
