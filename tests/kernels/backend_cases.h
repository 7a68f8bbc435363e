// Every operation of a backend as cases at odd shapes, for the tests that hold one backend against
// another.
#ifndef CVXQ_TESTS_KERNELS_BACKEND_CASES_H_
#define CVXQ_TESTS_KERNELS_BACKEND_CASES_H_

#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace cvxq {

using Outputs = std::vector<Tensor>;

struct Case {
  std::string name;
  // Runs the operation and returns its outputs. `compute` is the dtype of compute operands and
  // outputs.
  std::function<Outputs(Backend& backend, DType compute)> run;
  // Largest error relative to the largest element of an output.
  double f32_tolerance = 1e-5, bf16_tolerance = 1e-5;
};

std::vector<Case> AllCases();

// The outputs of a case on a backend, as floats.
std::vector<std::vector<float>> RunCase(const Case& c, Backend& backend, DType compute);

// Holds outputs against those of the reference within the case's tolerance.
void ExpectClose(const std::vector<std::vector<float>>& actual,
                 const std::vector<std::vector<float>>& expected, const Case& c, DType compute,
                 const std::string& what);

// For INSTANTIATE_TEST_SUITE_P.
std::string CaseName(const Case& c, size_t index);

}  // namespace cvxq

#endif  // CVXQ_TESTS_KERNELS_BACKEND_CASES_H_
