#include "base/memory.h"

#include <fstream>
#include <string>
#include <string_view>

namespace cvxq {
namespace {

// The field of /proc/self/status, which the kernel gives in units of 1,024 bytes.
int64_t StatusField(std::string_view name) {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    int64_t kibibytes = 0;
    if (word == name && status >> kibibytes) return kibibytes * 1024;
    std::getline(status, word);
  }
  return 0;
}

}  // namespace

int64_t ResidentBytes() { return StatusField("VmRSS:"); }
int64_t PeakResidentBytes() { return StatusField("VmHWM:"); }

}  // namespace cvxq
