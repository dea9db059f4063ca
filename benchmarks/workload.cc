#include "benchmarks/workload.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace quire {

absl::StatusOr<Workload> ParseWorkload(const std::string& text) {
  const std::pair<std::string, std::string> count = absl::StrSplit(text, absl::MaxSplits('x', 1));
  const std::pair<std::string, std::string> lengths =
      absl::StrSplit(count.second, absl::MaxSplits('/', 1));
  Workload work;
  const bool is_read = absl::SimpleAtoi(count.first, &work.num_requests) &&
                       absl::SimpleAtoi(lengths.first, &work.prompt_tokens) &&
                       absl::SimpleAtoi(lengths.second, &work.new_tokens);
  if (!is_read || work.num_requests == 0 || work.prompt_tokens == 0 || work.new_tokens == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(text, " is not REQUESTSxPROMPT/NEW, as in 8x1024/128"));
  }
  return work;
}

}  // namespace quire
