// The CPU matrix products behind a C interface, so that gemm_vs_torch.py can call them in torch's
// own process. Arguments are trusted: the script beside it is the only caller.

#include <cstdint>
#include <utility>

#include "worker/device/cpu/gemm/gemm.h"
#include "worker/device/cpu/gemm/self_test.h"

namespace {

using quire::Bf16;
using quire::GemmDtype;
using quire::PackedWeights;
using quire::ThreadContext;

struct Engine {
  explicit Engine(int num_threads) : pool(num_threads), isa(quire::UsableIsas().back()) {}
  quire::ThreadPool pool;
  quire::Isa isa;
};

}  // namespace

extern "C" {

// Dtypes: 0 bf16, 1 fp32.

Engine* quire_gemm_engine(int num_threads) { return new Engine(num_threads); }

const char* quire_gemm_isa(const Engine* engine) { return quire::IsaName(engine->isa).data(); }

// Null when there is not enough memory. `rows` is [n, k] row-major.
PackedWeights* quire_gemm_pack(int dtype, int64_t n, int64_t k, const void* rows) {
  absl::StatusOr<PackedWeights> weights =
      PackedWeights::Create(dtype == 0 ? GemmDtype::kBf16 : GemmDtype::kFp32, n, k);
  if (!weights.ok()) return nullptr;
  if (dtype == 0) {
    weights->PackRows(0, n, static_cast<const Bf16*>(rows));
  } else {
    weights->PackRows(0, n, static_cast<const float*>(rows));
  }
  return new PackedWeights(*std::move(weights));
}

void quire_gemm_release(PackedWeights* weights) { delete weights; }

// y [m, n] = x [m, k] · weightsᵀ, all of the weights' dtype.
void quire_gemm_multiply(Engine* engine, int64_t m, const void* x, const PackedWeights* weights,
                         void* y) {
  engine->pool.Run([&](ThreadContext& context) {
    if (weights->dtype() == GemmDtype::kBf16) {
      quire::Gemm(context, engine->isa, m, static_cast<const Bf16*>(x), *weights,
                  static_cast<Bf16*>(y));
    } else {
      quire::Gemm(context, engine->isa, m, static_cast<const float*>(x), *weights,
                  static_cast<float*>(y));
    }
  });
}

}  // extern "C"
