// The table of a path. See simd_inl.h for what kind of header this is.
#ifndef QUIRE_WORKER_DEVICE_CPU_KERNELS_TABLE_INL_H_
#define QUIRE_WORKER_DEVICE_CPU_KERNELS_TABLE_INL_H_

#include "worker/device/cpu/kernels/attention_inl.h"
#include "worker/device/cpu/kernels/elementwise_inl.h"
#include "worker/device/cpu/kernels/kernels.h"
#include "worker/device/cpu/kernels/sampling_inl.h"

namespace quire::QUIRE_SIMD {

template <typename T>
constexpr TypedKernels<T> kTyped = {
    .rms_norm = RmsNorm<T>,
    .add = AddTo<T>,
    .silu_mul = SiluMul<T>,
    .rope = Rope<T>,
    .store_key = StoreKey,
    .attention = Attention<T>,
};

constexpr CpuKernels kTable = {
    .fp32 = kTyped<float>,
    .bf16 = kTyped<Bf16>,
    .sampling =
        {
            .row_max = RowMaxOf,
            .arg_max = ArgMaxOf,
            .log_sum_exp = LogSumExp,
            .top = Top,
            .score = Score,
            .gather = Gather,
            .mass_above = MassAbove,
            .partition = Partition,
            .gumbel_arg_max = GumbelArgMax,
        },
};

}  // namespace quire::QUIRE_SIMD

#endif  // QUIRE_WORKER_DEVICE_CPU_KERNELS_TABLE_INL_H_
