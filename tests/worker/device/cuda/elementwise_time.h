#ifndef QUIRE_TESTS_WORKER_DEVICE_CUDA_ELEMENTWISE_TIME_H_
#define QUIRE_TESTS_WORKER_DEVICE_CUDA_ELEMENTWISE_TIME_H_

namespace quire::cuda {

// Prints how long each function of elementwise.h takes in Llama 3.1 8B's shapes, in bf16. Nothing
// where there is no GPU.
void PrintElementwiseTimes();

}  // namespace quire::cuda

#endif  // QUIRE_TESTS_WORKER_DEVICE_CUDA_ELEMENTWISE_TIME_H_
