#include "tests/model/model_test_util.h"

namespace cvxq {

std::vector<std::string> TestBackends() { return {"reference", "cpu"}; }

std::unique_ptr<Backend> MakeTestBackend(const std::string& name) {
  return name == "reference" ? MakeReferenceBackend() : MakeCpuBackend(2);
}

}  // namespace cvxq
