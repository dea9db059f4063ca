#include "worker/device/cpu/cpu_rank_group.h"

#include <cstring>

namespace quire {

bool CpuRankGroup::Gather(ThreadContext& context, uint32_t rank, const Rows& rows) {
  Part& own = parts_[rank];
  context.Barrier();
  if (context.index() == 0) {
    own.data = rows.data;
    own.is_complete = rendezvous_.Arrive().ok();
  }
  context.Barrier();
  if (!own.is_complete) return false;
  const size_t row_bytes = rows.part_bytes * parts_.size();
  context.ForEachChunk(rows.num_rows, 1, [&](int64_t begin, int64_t end) {
    for (size_t other = 0; other < parts_.size(); ++other) {
      if (other == rank) continue;
      const size_t part = other * rows.part_bytes;
      for (int64_t row = begin; row < end; ++row) {
        const size_t at = static_cast<size_t>(row) * row_bytes + part;
        std::memcpy(rows.data + at, parts_[other].data + at, rows.part_bytes);
      }
    }
  });
  context.Barrier();
  // Nobody may write to his rows again while another reads them.
  if (context.index() == 0) own.is_complete = rendezvous_.Arrive().ok();
  context.Barrier();
  return own.is_complete;
}

}  // namespace quire
