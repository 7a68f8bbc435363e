// Curvature of a linear with respect to its inputs, H_I = E[x x^T], in the factored form that error
// feedback works from.
#ifndef CVXQ_QUANT_CURVATURE_H_
#define CVXQ_QUANT_CURVATURE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"

namespace cvxq {

// P H P^T + damping = L diag(D) L^T with L unit lower triangular.
struct CurvatureFactor {
  int64_t n = 0;
  std::vector<int32_t> order;   // order[i]: the column of H in place i
  std::vector<float> lower;     // L [n, n], row-major; zero above the diagonal
  std::vector<float> diagonal;  // D [n], all positive
  double damping = 0;           // what was added to the diagonal, as a share of its mean
};

// In what order columns are put, by the diagonal of H (work goes from the last place back):
//   kLeastFirst    descending, so that work begins with the least: their errors are made up for by
//                  the columns that get most bits (`lloyd`, `entropy`)
//   kLargestFirst  ascending, so that work begins with the largest, which then carry no errors of
//                  others (grids of one width; GPTQ's act-order)
//   kFirstFirst    work goes from the first column to the last
enum class WorkOrder : uint8_t { kLeastFirst, kLargestFirst, kFirstFirst };

// order[i]: the column in place i, given the diagonal of H.
std::vector<int32_t> WorkPlaces(std::span<const float> diagonal, WorkOrder order);

// Factors H [n, n] (symmetric, row-major, consumed). `damping` times the mean of the diagonal is
// added; where the factorisation still breaks down, ten times as much is tried, up to the mean
// itself. An H of zeros (an input that never fires) factors as the identity. A NaN or Inf is
// kDataLoss. Single-threaded; any thread.
StatusOr<CurvatureFactor> FactorCurvature(std::vector<float> h, int64_t n, double damping,
                                          WorkOrder order = WorkOrder::kLeastFirst);

// The same with the order given: order[i] is the column of H in place i.
StatusOr<CurvatureFactor> FactorInOrder(const std::vector<float>& h, std::vector<int32_t> order,
                                        double damping);

// The Cholesky factor in place: the lower triangle of a [n, n] (row-major) becomes C with
// C C^T = A, reading nothing else; the upper is left undefined. False if a pivot is not positive.
bool CholeskyInPlace(float* a, int64_t n);

}  // namespace cvxq

#endif  // CVXQ_QUANT_CURVATURE_H_
