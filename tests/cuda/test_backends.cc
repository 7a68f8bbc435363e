// The tests of whole models (tests/model) on a GPU, where there is one.
#include "tests/model/model_test_util.h"

namespace cvxq {

std::vector<std::string> TestBackends() {
  if (!MakeCudaBackend().ok()) return {};
  return {"cuda"};
}

std::unique_ptr<Backend> MakeTestBackend(const std::string&) { return *MakeCudaBackend(); }

}  // namespace cvxq
