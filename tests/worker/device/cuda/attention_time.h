#ifndef QUIRE_TESTS_WORKER_DEVICE_CUDA_ATTENTION_TIME_H_
#define QUIRE_TESTS_WORKER_DEVICE_CUDA_ATTENTION_TIME_H_

namespace quire::cuda {

// Prints what a launch takes: the median over replays of a graph of launches, one a layer as in a
// model's step, each with keys and values of its own, which together fit no cache.
void PrintAttentionTimes();

}  // namespace quire::cuda

#endif  // QUIRE_TESTS_WORKER_DEVICE_CUDA_ATTENTION_TIME_H_
