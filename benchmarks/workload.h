#ifndef QUIRE_BENCHMARKS_WORKLOAD_H_
#define QUIRE_BENCHMARKS_WORKLOAD_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace quire {

// Requests of one shape that are submitted at once.
struct Workload {
  uint32_t num_requests = 0;
  uint32_t prompt_tokens = 0;
  uint32_t new_tokens = 0;

  uint64_t context_tokens() const { return uint64_t{prompt_tokens} + new_tokens; }
};

// From "RxP/N", as in "8x1024/128". INVALID_ARGUMENT names the text; every number is above 0.
absl::StatusOr<Workload> ParseWorkload(const std::string& text);

}  // namespace quire

#endif  // QUIRE_BENCHMARKS_WORKLOAD_H_
