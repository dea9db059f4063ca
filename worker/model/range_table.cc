#include "worker/model/range_table.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace quire {
namespace {

constexpr size_t kColumns = 11;
constexpr size_t kTextColumns = 3;  // the first, which stand to the left
using Row = std::array<std::string, kColumns>;

Row RowOf(const TensorRange& range) {
  const auto number = [](float value) { return absl::StrFormat("%.4g", value); };
  return {range.name,
          range.dtype,
          range.shape,
          number(range.min),
          number(range.max),
          number(range.smallest_nonzero_magnitude),
          absl::StrCat(range.num_not_finite),
          absl::StrCat(range.to_bf16.overflowed),
          absl::StrCat(range.to_bf16.flushed),
          absl::StrCat(range.to_f16.overflowed),
          absl::StrCat(range.to_f16.flushed)};
}

}  // namespace

std::string RangeTable(const std::vector<TensorRange>& ranges) {
  std::vector<Row> rows = {{"tensor", "dtype", "shape", "min", "max", "smallest", "not finite",
                            "over bf16", "zero in bf16", "over fp16", "zero in fp16"}};
  for (const TensorRange& range : ranges) rows.push_back(RowOf(range));
  std::array<size_t, kColumns> widths{};
  for (const Row& row : rows) {
    for (size_t i = 0; i < kColumns; ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string table;
  for (const Row& row : rows) {
    for (size_t i = 0; i < kColumns; ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      absl::StrAppend(&table, i > 0 ? "  " : "", i < kTextColumns ? row[i] : padding,
                      i < kTextColumns ? padding : row[i]);
    }
    table += '\n';
  }
  return table;
}

}  // namespace quire
