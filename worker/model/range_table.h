#ifndef QUIRE_WORKER_MODEL_RANGE_TABLE_H_
#define QUIRE_WORKER_MODEL_RANGE_TABLE_H_

#include <string>
#include <vector>

#include "worker/model/cast.h"

namespace quire {

// The ranges as text, a line a tensor under a line of headings, columns aligned: what each tensor
// holds, and how many of its values bf16 and fp16 could not (docs/numerics.md).
std::string RangeTable(const std::vector<TensorRange>& ranges);

}  // namespace quire

#endif  // QUIRE_WORKER_MODEL_RANGE_TABLE_H_
