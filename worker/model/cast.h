#ifndef QUIRE_WORKER_MODEL_CAST_H_
#define QUIRE_WORKER_MODEL_CAST_H_

#include <cstdint>
#include <string>

#include "worker/model/dtype.h"

// Casts between the weight dtypes that count what the target cannot hold.
namespace quire {

// What a cast did to values that the target cannot hold.
struct CastCounts {
  uint64_t overflowed = 0;  // finite, but beyond the target's largest finite value
  uint64_t flushed = 0;     // not zero, but zero in the target

  CastCounts& operator+=(const CastCounts& other) {
    overflowed += other.overflowed;
    flushed += other.flushed;
    return *this;
  }
};

// Largest finite value of the dtype.
float LargestFinite(DType dtype);

// Converts `count` elements, to nearest, ties to even. `from` needs no alignment; `to` is aligned
// to its element. A value that overflows becomes the target's largest of its sign; infinities and
// NaNs stay what they are.
CastCounts CastElements(const void* from, DType from_dtype, void* to, DType to_dtype,
                        uint64_t count);

// The values of one stored tensor.
struct TensorRange {
  std::string name;
  std::string dtype;  // as stored
  std::string shape;
  uint64_t num_elements = 0;
  uint64_t num_bytes = 0;
  // Over finite values; 0 for none.
  float min = 0;
  float max = 0;
  float smallest_nonzero_magnitude = 0;
  uint64_t num_zeros = 0;
  uint64_t num_not_finite = 0;
  CastCounts to_bf16;
  CastCounts to_f16;
};

// Adds `count` elements at `data` (no alignment needed) to `range`; name, dtype, shape and sizes
// are the caller's.
void AccumulateRange(const void* data, DType dtype, uint64_t count, TensorRange* range);

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_CAST_H_
