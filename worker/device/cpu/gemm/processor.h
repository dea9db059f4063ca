#ifndef QUIRE_WORKER_DEVICE_CPU_GEMM_PROCESSOR_H_
#define QUIRE_WORKER_DEVICE_CPU_GEMM_PROCESSOR_H_

#include "worker/device/cpu/gemm/isa.h"

namespace quire {

// Whether this processor and its operating system can execute a path. In a file of its own: tests
// put one that emulates what is missing in its place (tests/worker/device/cpu/emulated/).
bool ProcessorSupports(Isa isa);

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_GEMM_PROCESSOR_H_
