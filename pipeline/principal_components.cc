#include "pipeline/principal_components.h"

#include <Eigen/Eigenvalues>
#include <cmath>

namespace cvxq {

StatusOr<std::vector<float>> PrincipalComponents(const std::vector<float>& covariance, int64_t n,
                                                 int64_t count) {
  for (const float value : covariance) {
    if (!std::isfinite(value)) {
      return absl::DataLossError(
          "the final hidden states are not finite; check the model's weights or use "
          "--objective fisher");
    }
  }
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix matrix =
      Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
          covariance.data(), n, n)
          .cast<double>();
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(matrix);  // eigenvalues in ascending order
  std::vector<float> components(count * n);
  for (int64_t k = 0; k < count; ++k) {
    const auto vector = solver.eigenvectors().col(n - 1 - k);
    Eigen::Index largest;
    vector.cwiseAbs().maxCoeff(&largest);
    const double sign = vector(largest) < 0 ? -1 : 1;
    for (int64_t i = 0; i < n; ++i) components[k * n + i] = static_cast<float>(sign * vector(i));
  }
  return components;
}

}  // namespace cvxq
