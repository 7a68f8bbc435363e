#include "service/metric_families.h"

#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <iterator>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;

const absl::Time kStart = absl::Now();  // as this file is loaded: when the process begins

void Add(const char* name, const char* help, prometheus::MetricType type,
         const std::vector<MetricValue>& values, MetricFamilies& families) {
  if (values.empty()) return;
  prometheus::MetricFamily& family = families.emplace_back();
  family.name = name;
  family.help = help;
  family.type = type;
  for (const MetricValue& value : values) {
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    for (const auto& [label, text] : value.labels) metric.label.push_back({label, text});
    metric.gauge.value = metric.counter.value = value.value;
  }
}

double ResidentBytes() {
  int64_t all = 0, resident = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%ld %ld", &all, &resident) != 2) resident = 0;
    std::fclose(file);
  }
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double Entries(const char* folder) {
  std::error_code error;
  const fs::directory_iterator begin(folder, error);
  return error ? 0 : static_cast<double>(std::distance(begin, fs::directory_iterator()));
}

}  // namespace

void AddGauges(const char* name, const char* help, const std::vector<MetricValue>& values,
               MetricFamilies& families) {
  Add(name, help, prometheus::MetricType::Gauge, values, families);
}

void AddCounters(const char* name, const char* help, const std::vector<MetricValue>& values,
                 MetricFamilies& families) {
  Add(name, help, prometheus::MetricType::Counter, values, families);
}

void AddProcess(MetricFamilies& families) {
  AddCounters("process_cpu_seconds_total", "Time on processors, user and system.",
              {{.value = CpuSeconds()}}, families);
  AddGauges("process_resident_memory_bytes", "Memory in use.", {{.value = ResidentBytes()}},
            families);
  AddGauges("process_open_fds", "Open file descriptors.", {{.value = Entries("/proc/self/fd")}},
            families);
  AddGauges("process_threads", "Threads.", {{.value = Entries("/proc/self/task")}}, families);
  AddGauges("process_start_time_seconds", "When the process began.",
            {{.value = absl::ToDoubleSeconds(kStart - absl::UnixEpoch())}}, families);
}

}  // namespace cvxq
