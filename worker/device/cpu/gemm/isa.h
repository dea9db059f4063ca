#ifndef QUIRE_WORKER_DEVICE_CPU_GEMM_ISA_H_
#define QUIRE_WORKER_DEVICE_CPU_GEMM_ISA_H_

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace quire {

// An instruction-set path of the CPU kernels, slowest first. All paths give the same bits, so the
// choice is one of speed and does not enter numerics_id.
enum class Isa {
  kPortable,    // any x86-64; fused multiply-adds are emulated
  kAvx2,        // AVX2 and FMA
  kAvx512,      // AVX-512 F, BW, VL and DQ
  kAvx512Bf16,  // and its bf16 dot product, vdpbf16ps
};

// "portable", "avx2", "avx512", "avx512_bf16".
std::string_view IsaName(Isa isa);

// The inverse of IsaName. An unknown name is INVALID_ARGUMENT and lists the known ones.
absl::StatusOr<Isa> ParseIsa(std::string_view name);

// The paths that this processor and its operating system can execute, slowest first; kPortable is
// always among them. Whether they also compute what they should is UsableIsas' question
// (self_test.h).
std::vector<Isa> SupportedIsas();

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_GEMM_ISA_H_
