#include "base/failpoint.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>

namespace cvxq {
namespace {

struct Chosen {
  std::string name;
  std::atomic<int> left = 1;  // times it is passed, the last one included

  Chosen() {
    const char* value = std::getenv("CVXQ_FAILPOINT");
    if (value == nullptr) return;
    name = value;
    const size_t colon = name.find(':');
    if (colon == std::string::npos) return;
    left = std::atoi(name.c_str() + colon + 1);
    name.resize(colon);
  }
};

}  // namespace

void Failpoint(std::string_view name) {
  static Chosen chosen;
  if (chosen.name.empty() || chosen.name != name) return;
  if (--chosen.left == 0) kill(getpid(), SIGKILL);
}

}  // namespace cvxq
