#ifndef QUIRE_SCHEDULER_PLACEMENT_WORKER_SNAPSHOT_H_
#define QUIRE_SCHEDULER_PLACEMENT_WORKER_SNAPSHOT_H_

#include <cstdint>

namespace quire {

// A worker's own number within the coordinator, never used twice.
using WorkerNumber = uint64_t;

// What a coordinator knows of a worker when it places a request there.
struct WorkerSnapshot {
  WorkerNumber worker = 0;
  // As the worker reported last.
  uint32_t running = 0;  // sequences
  uint32_t waiting = 0;
  uint32_t blocks_free = 0;
  uint32_t blocks_cached = 0;
  uint32_t blocks_total = 0;
  // Sequences placed there since that report.
  uint32_t unreported = 0;
  // Its limits.
  uint32_t max_num_seqs = 0;
  uint32_t max_queue = 0;
  uint32_t block_size = 0;  // tokens; 0: it does not page

  uint64_t load() const { return uint64_t{running} + waiting + unreported; }
  // Sequences that it can still take.
  uint64_t room() const {
    const uint64_t most = uint64_t{max_num_seqs} + max_queue;
    return load() >= most ? 0 : most - load();
  }
  uint64_t BlocksFor(uint64_t num_tokens) const {
    return block_size == 0 ? 0 : (num_tokens + block_size - 1) / block_size;
  }
};

}  // namespace quire

#endif  // QUIRE_SCHEDULER_PLACEMENT_WORKER_SNAPSHOT_H_
