// Figures that are read off when Prometheus asks, rather than kept: they come and go with what they
// tell of. What both the coordinator and workers tell of themselves is here too.
#ifndef CVXQ_SERVICE_METRIC_FAMILIES_H_
#define CVXQ_SERVICE_METRIC_FAMILIES_H_

#include <map>
#include <string>
#include <vector>

#include "prometheus/metric_family.h"

namespace cvxq {

using MetricFamilies = std::vector<prometheus::MetricFamily>;

struct MetricValue {
  std::map<std::string, std::string> labels;
  double value = 0;
};

// Nothing where there are no values.
void AddGauges(const char* name, const char* help, const std::vector<MetricValue>& values,
               MetricFamilies& families);
void AddCounters(const char* name, const char* help, const std::vector<MetricValue>& values,
                 MetricFamilies& families);

// This process by the names that Prometheus has for it:
//   process_cpu_seconds_total  process_resident_memory_bytes  process_open_fds  process_threads
//   process_start_time_seconds
void AddProcess(MetricFamilies& families);

}  // namespace cvxq

#endif  // CVXQ_SERVICE_METRIC_FAMILIES_H_
