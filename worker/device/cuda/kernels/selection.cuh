#ifndef QUIRE_WORKER_DEVICE_CUDA_KERNELS_SELECTION_CUH_
#define QUIRE_WORKER_DEVICE_CUDA_KERNELS_SELECTION_CUH_

#include <cfloat>
#include <cstdint>

#include "worker/device/cuda/kernels/row_cluster.cuh"
#include "worker/device/cuda/kernels/row_slice.cuh"
#include "worker/device/cuda/kernels/sampling_math.cuh"

// Where a row ends if its values are taken from the largest down until they amount to something: a
// number of them, or a part of their probability.
//
// Without a sort: a histogram says in which bin the end lies, and what is in that bin is counted
// out, or divided into bins again while there is too much of it. All sums are of integers, so the
// result is exact and no order of additions matters.
namespace quire::cuda {

// A value and its token as one integer: by falling value, then by rising id.
__device__ inline uint64_t KeyOf(float value, uint32_t id) {
  return uint64_t{~Ordered(value)} << 32 | id;
}
__device__ inline float ValueOf(uint64_t key) {
  return FromOrdered(~static_cast<uint32_t>(key >> 32));
}
__device__ inline uint32_t IdOf(uint64_t key) { return static_cast<uint32_t>(key); }

// Key of the last tie of `key`'s value.
__device__ inline uint64_t WithTies(uint64_t key) { return key | 0xFFFFFFFFu; }

// All finite values have keys up to this one, −inf has not.
__device__ inline uint64_t LastFiniteKey() { return WithTies(KeyOf(-FLT_MAX, 0)); }

// What values amount to.
struct Count {
  __device__ uint64_t operator()(float) const { return 1; }
};
struct Mass {  // of scores, which are at most 0
  __device__ uint64_t operator()(float score) const {
    return __float2ull_rn(Mul(ExpOfNegative(score), kFixedPoint));
  }
};

inline constexpr uint32_t kBins = 512;
inline constexpr uint32_t kListCapacity = kBins;

// What a block keeps in shared memory for Selection. Two arrays serve twice.
struct SelectionMemory {
  uint64_t own[kBins];  // the block's histogram; later what each key in `all` amounts to
  uint64_t all[kBins];  // the cluster's histogram; later the keys in all lists
  uint64_t list[kListCapacity];
  uint32_t list_size;
  uint32_t takes_all;    // 1: the target is not less than the amount of all bins
  uint32_t border_bin;   // if not: the bin in which the target is reached,
  uint64_t border_need;  // and the amount that it must give
};

// Which bin of a histogram a value falls into: bins are in the order of keys.
class Bins {
 public:
  // Of equal width from the largest value down to about the lowest; beyond it, the last bin.
  static __device__ Bins OfValues(float largest, float lowest) {
    Bins bins;
    bins.largest_ = largest;
    bins.scale_ = fminf(Div(kBins - 1, Sub(largest, lowest)), FLT_MAX);
    bins.by_value_ = true;
    return bins;
  }
  // Of keys from `first` to `last`.
  static __device__ Bins OfKeys(uint64_t first, uint64_t last) {
    Bins bins;
    bins.first_ = first;
    const int bits = 64 - __clzll(static_cast<long long>(last - first));
    constexpr int kBinBits = 9;
    static_assert(1u << kBinBits == kBins);
    bins.shift_ = bits > kBinBits ? bits - kBinBits : 0;
    return bins;
  }
  // REQUIRES: key is value's, and in the range that the bins were made for.
  __device__ uint32_t Of(float value, uint64_t key) const {
    if (!by_value_) return static_cast<uint32_t>((key - first_) >> shift_);
    return min(kBins - 1, __float2uint_rz(Mul(Sub(largest_, value), scale_)));
  }

 private:
  float largest_ = 0;
  float scale_ = 0;
  uint64_t first_ = 0;
  int shift_ = 0;
  bool by_value_ = false;
};

// Selects among the values that a cluster's blocks hold of a row. Like RowCluster, a thread's view:
// every thread of the cluster makes the same calls.
class Selection {
 public:
  // `values`, the block's slice of the row, may change between calls. No value is −0 or a NaN.
  __device__ Selection(const RowCluster& cluster, SelectionMemory* memory, const float4* values,
                       uint32_t vocabulary_size)
      : cluster_(cluster),
        memory_(memory),
        values_(values),
        slice_(vocabulary_size, cluster.rank()) {}

  __device__ RowCluster& cluster() { return cluster_; }
  __device__ const Slice& slice() const { return slice_; }

  // Of the keys up to `limit`, taken in order: the one that makes their amount reach
  // target_of(amount of all of them). `limit` if that is not less than the amount of all.
  // REQUIRES: the largest value is `largest`; `lowest` is a guess of how far down it is worth
  // looking closely.
  template <typename Measure, typename TargetOf>
  __device__ uint64_t Cut(Measure measure, TargetOf target_of, float largest, float lowest,
                          uint64_t limit) {
    uint64_t first = 0;
    uint64_t last = limit;
    Bins bins = Bins::OfValues(largest, lowest);
    FillHistogram(measure, first, last, bins);
    FindBorder(target_of);
    if (memory_->takes_all != 0) {
      cluster_.Sync();  // others may still read this block's histogram
      return limit;
    }
    while (true) {
      const uint64_t need = memory_->border_need;
      const uint32_t bin = memory_->border_bin;
      uint64_t least = ~uint64_t{0};
      uint64_t greatest = 0;
      const uint32_t size = Gather([&](float value, uint64_t key) {
        if (key < first || key > last || bins.Of(value, key) != bin) return false;
        least = min(least, key);
        greatest = max(greatest, key);
        return true;
      });
      if (size <= kListCapacity) return CutOfLists(measure, need, size);
      first = cluster_.Reduce(least, MinOf());
      last = cluster_.Reduce(greatest, MaxOf());
      bins = Bins::OfKeys(first, last);
      FillHistogram(measure, first, last, bins);
      FindBorder([need](uint64_t) { return need; });
    }
  }

  // Puts the keys for which wanted(value, key) holds into the blocks' lists, in no order. Returns
  // how many there are; beyond kListCapacity some are missing.
  template <typename Wanted>
  __device__ uint32_t Gather(Wanted wanted) {
    if (threadIdx.x == 0) memory_->list_size = 0;
    __syncthreads();
    ForEach([&](float value, uint64_t key) {
      if (!wanted(value, key)) return;
      const uint32_t at = atomicAdd(&memory_->list_size, 1u);
      if (at < kListCapacity) memory_->list[at] = key;
    });
    cluster_.Sync();
    uint32_t size = 0;
    for (uint32_t r = 0; r < kClusterBlocks; ++r) size += *cluster_.Of(r, &memory_->list_size);
    return size;
  }

  // What Gather found, in this block's memory. REQUIRES: it was no more than kListCapacity. The
  // caller sees to it that a Sync follows before the next Gather.
  __device__ const uint64_t* CollectLists() {
    uint32_t begin = 0;
    for (uint32_t r = 0; r < kClusterBlocks; ++r) {
      const uint32_t size = *cluster_.Of(r, &memory_->list_size);
      const uint64_t* const list = cluster_.Of(r, memory_->list);
#pragma unroll 1
      for (uint32_t i = threadIdx.x; i < size; i += kClusterThreads) {
        memory_->all[begin + i] = list[i];
      }
      begin += size;
    }
    __syncthreads();
    return memory_->all;
  }

  // visit(value, key) for each of the thread's values.
  template <typename Visit>
  __device__ void ForEach(Visit visit) const {
#pragma unroll 1
    for (uint32_t q = threadIdx.x; q < slice_.num_quads(); q += kClusterThreads) {
      const float4 quad = values_[q];
      const uint32_t id = slice_.first + 4 * q;
      visit(quad.x, KeyOf(quad.x, id));
      visit(quad.y, KeyOf(quad.y, id + 1));
      visit(quad.z, KeyOf(quad.z, id + 2));
      visit(quad.w, KeyOf(quad.w, id + 3));
    }
  }

 private:
  // Adds to a 64-bit number by its halves, which shared memory can do at once.
  static __device__ void AddTo(uint64_t* sum, uint64_t amount) {
    uint32_t* const halves = reinterpret_cast<uint32_t*>(sum);
    const uint32_t low = static_cast<uint32_t>(amount);
    uint32_t high = static_cast<uint32_t>(amount >> 32);
    if (low != 0 && atomicAdd(&halves[0], low) + low < low) ++high;
    if (high != 0) atomicAdd(&halves[1], high);
  }

  // The histogram of the keys from `first` to `last`: of this block in `own`, then of the cluster
  // in `all`.
  template <typename Measure>
  __device__ void FillHistogram(Measure measure, uint64_t first, uint64_t last, const Bins& bins) {
    for (uint32_t bin = threadIdx.x; bin < kBins; bin += kClusterThreads) memory_->own[bin] = 0;
    __syncthreads();
    uint64_t rest = 0;  // the last bin may get most of the row
    ForEach([&](float value, uint64_t key) {
      if (key < first || key > last) return;
      const uint32_t bin = bins.Of(value, key);
      const uint64_t amount = measure(value);
      if (bin == kBins - 1) {
        rest += amount;
      } else {
        AddTo(&memory_->own[bin], amount);
      }
    });
    rest = WarpReduce(rest, AddOf());
    if (threadIdx.x % 32 == 0) AddTo(&memory_->own[kBins - 1], rest);
    cluster_.Sync();
#pragma unroll 1
    for (uint32_t bin = threadIdx.x; bin < kBins; bin += kClusterThreads) {
      uint64_t sum = 0;
      for (uint32_t r = 0; r < kClusterBlocks; ++r) sum += *cluster_.Of(r, &memory_->own[bin]);
      memory_->all[bin] = sum;
    }
    __syncthreads();
  }

  // Notes where the amount reaches target_of(total).
  template <typename TargetOf>
  __device__ void FindBorder(TargetOf target_of) {
    constexpr uint32_t kBinsPerLane = kBins / 32;
    if (threadIdx.x < 32) {
      const uint32_t lane = threadIdx.x;
      const uint64_t* const bins = memory_->all + lane * kBinsPerLane;
      uint64_t own = 0;
      // Lanes begin at different places, so that they do not meet in a memory bank.
#pragma unroll 4
      for (uint32_t i = 0; i < kBinsPerLane; ++i) own += bins[(i + lane) % kBinsPerLane];
      uint64_t end = own;
      for (uint32_t offset = 1; offset < 32; offset *= 2) {
        const uint64_t before = __shfl_up_sync(0xFFFFFFFFu, end, offset);
        if (lane >= offset) end += before;
      }
      const uint64_t total = __shfl_sync(0xFFFFFFFFu, end, 31);
      uint64_t need = target_of(total);
      if (lane == 0) memory_->takes_all = total <= need ? 1 : 0;
      const uint64_t begin = end - own;
      if (begin < need && need <= end) {
        need -= begin;
        uint32_t i = 0;
#pragma unroll 1
        for (; bins[i] < need; ++i) need -= bins[i];
        memory_->border_need = need;
        memory_->border_bin = lane * kBinsPerLane + i;
      }
    }
    __syncthreads();
  }

  // Of the `size` keys in the lists, in order: the one that makes their amount reach `need`.
  template <typename Measure>
  __device__ uint64_t CutOfLists(Measure measure, uint64_t need, uint32_t size) {
    const uint64_t* const keys = CollectLists();
    uint64_t* const amounts = memory_->own;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < size; i += kClusterThreads) {
      amounts[i] = measure(ValueOf(keys[i]));
    }
    __syncthreads();
    // A warp for each key, over the whole cluster.
    const uint32_t lane = threadIdx.x % 32;
    uint64_t found = 0;
    for (uint32_t i = cluster_.rank() + kClusterBlocks * (threadIdx.x / 32); i < size;
         i += kClusterBlocks * kWarps) {
      uint64_t before = 0;
#pragma unroll 1
      for (uint32_t j = lane; j < size; j += 32) before += keys[j] < keys[i] ? amounts[j] : 0;
      before = WarpReduce(before, AddOf());
      if (before < need && need <= before + amounts[i]) found = keys[i];
    }
    return cluster_.Reduce(found, MaxOf());
  }

  RowCluster cluster_;
  SelectionMemory* const memory_;
  const float4* const values_;
  const Slice slice_;
};

}  // namespace quire::cuda

#endif  // QUIRE_WORKER_DEVICE_CUDA_KERNELS_SELECTION_CUH_
