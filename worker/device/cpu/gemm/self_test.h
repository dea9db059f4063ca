#ifndef QUIRE_WORKER_DEVICE_CPU_GEMM_SELF_TEST_H_
#define QUIRE_WORKER_DEVICE_CPU_GEMM_SELF_TEST_H_

#include <vector>

#include "worker/device/cpu/gemm/isa.h"

namespace quire {

// The supported paths whose matrix products are bitwise those of the portable path on a fixed set
// of hard operands (denormals, cancellations, infinities, odd shapes), slowest first. The portable
// path is the definition and always present. A processor whose vdpbf16ps rounds otherwise is served
// by the next path, with the same tokens. Takes some milliseconds.
std::vector<Isa> UsableIsas();

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_GEMM_SELF_TEST_H_
