#ifndef QUIRE_COMMON_METRICS_H_
#define QUIRE_COMMON_METRICS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace prometheus {
class Counter;
class Exposer;
class Gauge;
class Histogram;
class Registry;
}  // namespace prometheus

namespace quire {

// Prometheus metrics of one process, served as text on /metrics by prometheus-cpp. Names carry the
// prefix "quire_" and are otherwise vLLM's. Thread safe.
class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // Each creates the metric; the reference lives as long as this object. Units are in the name.
  prometheus::Counter& AddCounter(const std::string& name, const std::string& help);
  prometheus::Gauge& AddGauge(const std::string& name, const std::string& help);
  // Buckets from 1 ms to 60 s.
  prometheus::Histogram& AddLatencyHistogram(const std::string& name, const std::string& help);

  // Serves on HOST:PORT; the error says why not.
  absl::Status Serve(const std::string& address);

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace quire

#endif  // QUIRE_COMMON_METRICS_H_
