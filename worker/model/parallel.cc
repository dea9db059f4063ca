#include "worker/model/parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace quire {

void ParallelFor(size_t count, uint32_t num_threads, const std::function<void(size_t)>& work) {
  std::atomic<size_t> next{0};
  const auto take = [&] {
    for (size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) work(i);
  };
  std::vector<std::jthread> helpers;
  const size_t num_helpers =
      std::min<size_t>(std::max(num_threads, 1u), count) - (count > 0 ? 1 : 0);
  for (size_t i = 0; i < num_helpers; ++i) helpers.emplace_back(take);
  take();
}

}  // namespace quire
