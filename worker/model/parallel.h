#ifndef QUIRE_WORKER_MODEL_PARALLEL_H_
#define QUIRE_WORKER_MODEL_PARALLEL_H_

#include <cstddef>
#include <cstdint>
#include <functional>

namespace quire {

// Calls work(0) ... work(count - 1), each once, on up to `num_threads` threads including the
// caller's, and returns when all are done. For loading, where a thread's start costs nothing beside
// the work.
void ParallelFor(size_t count, uint32_t num_threads, const std::function<void(size_t)>& work);

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_PARALLEL_H_
