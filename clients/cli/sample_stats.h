#ifndef QUIRE_CLIENTS_CLI_SAMPLE_STATS_H_
#define QUIRE_CLIENTS_CLI_SAMPLE_STATS_H_

#include <vector>

namespace quire {

// A sample of measurements, summed up as numpy does it. Every figure of an empty sample is 0.
// Thread compatible.
class SampleStats {
 public:
  explicit SampleStats(std::vector<double> values);

  double mean() const;
  // Population standard deviation.
  double stddev() const;
  double median() const { return percentile(50); }
  // Linear between the two nearest values. REQUIRES: 0 <= percent <= 100.
  double percentile(double percent) const;

 private:
  std::vector<double> sorted_;
};

}  // namespace quire

#endif  // QUIRE_CLIENTS_CLI_SAMPLE_STATS_H_
