#include "clients/cli/sample_stats.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace quire {

SampleStats::SampleStats(std::vector<double> values) : sorted_(std::move(values)) {
  std::sort(sorted_.begin(), sorted_.end());
}

double SampleStats::mean() const {
  if (sorted_.empty()) return 0;
  return std::accumulate(sorted_.begin(), sorted_.end(), 0.0) / sorted_.size();
}

double SampleStats::stddev() const {
  if (sorted_.empty()) return 0;
  const double center = mean();
  double squares = 0;
  for (const double value : sorted_) squares += (value - center) * (value - center);
  return std::sqrt(squares / sorted_.size());
}

double SampleStats::percentile(double percent) const {
  if (sorted_.empty()) return 0;
  const double position = percent / 100 * (sorted_.size() - 1);
  const size_t below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, sorted_.size() - 1);
  return sorted_[below] + (position - below) * (sorted_[above] - sorted_[below]);
}

}  // namespace quire
