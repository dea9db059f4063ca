#ifndef QUIRE_WORKER_DEVICE_CPU_GEMM_GEMM_H_
#define QUIRE_WORKER_DEVICE_CPU_GEMM_GEMM_H_

#include <cstdint>

#include "worker/device/cpu/gemm/bf16.h"
#include "worker/device/cpu/gemm/isa.h"
#include "worker/device/cpu/gemm/packed_weights.h"
#include "worker/device/cpu/gemm/thread_pool.h"

namespace quire {

// Matrix products y = x · wᵀ + bias whose every output row has the same bits whatever the other
// rows, their number, the threads and the instruction set (docs/numerics.md, E1).
//
// The recipe. Output (i, j) is one chain of fused multiply-adds in fp32, over k in order, from +0:
//   fp32:  acc = fma(x[i, k], w[j, k], acc)                                     for k = 0, 1, 2 ...
//   bf16:  acc = fma(x[i, k], w[j, k], fma(x[i, k + 1], w[j, k + 1], acc))      for k = 0, 2, 4 ...
// (odd k: a last product 0 · 0 takes the missing place), with denormal operands and results taken
// as zero. Then, where asked, bias[j] is added in fp32, and the sum is rounded to bf16, once.
//
// Why this one. It depends on k alone: no split of K, so there is nothing that a batch size could
// choose differently, and tiling over rows and outputs, cache blocks of K (the accumulators rest in
// memory between them) and threads are free. One chain an output costs no speed, since a tile holds
// enough outputs to hide the latency. The order of a bf16 pair and the flushing of denormals are
// what vdpbf16ps does, an instruction whose result no control register changes, so paths that lack
// it are built from FMAs to agree with it, and so does the portable path, which is the definition.
// A NaN is a NaN on every path; its sign and payload are unspecified.

struct GemmOptions {
  const float* bias = nullptr;  // [n]; null: none. bf16 biases are widened, which is exact.
  int64_t x_stride = 0;         // elements from one row of x to the next; 0: k
  int64_t y_stride = 0;         // elements from one row of y to the next; 0: n
};

// y[m, n] = x[m, k] · weightsᵀ + bias, all row-major; x and y do not overlap. To be called by all
// threads of a ThreadPool region with the same arguments; contains no barrier: x must be complete
// before (Barrier, if other threads wrote it), and y is after the next Barrier. m = 0 does nothing.
// REQUIRES: `isa` is supported here; weights.dtype() is the type of x.
void Gemm(ThreadContext& context, Isa isa, int64_t m, const Bf16* x, const PackedWeights& weights,
          Bf16* y, const GemmOptions& options = {});
void Gemm(ThreadContext& context, Isa isa, int64_t m, const Bf16* x, const PackedWeights& weights,
          float* y, const GemmOptions& options = {});
void Gemm(ThreadContext& context, Isa isa, int64_t m, const float* x, const PackedWeights& weights,
          float* y, const GemmOptions& options = {});

}  // namespace quire

#endif  // QUIRE_WORKER_DEVICE_CPU_GEMM_GEMM_H_
