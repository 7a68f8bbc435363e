// Sums over tokens: second moments, means, squared gradients.
#include <algorithm>
#include <vector>

#include "kernels/contract.h"
#include "kernels/reference/elements.h"
#include "kernels/reference/reference_backend.h"

namespace cvxq {

using reference::Elements;

namespace {

// sum over rows i of a[i, j] * b[i, k].
double ColumnProduct(const Elements& a, int64_t a_columns, int64_t j, const Elements& b,
                     int64_t b_columns, int64_t k, int64_t rows) {
  double sum = 0;
  for (int64_t i = 0; i < rows; ++i) sum += a[i * a_columns + j] * b[i * b_columns + k];
  return sum;
}

}  // namespace

void ReferenceBackend::AddSecondMoment(const Tensor& x, Tensor h) {
  if (failed()) return;
  contract::AddSecondMoment(x, h);
  const int64_t n = x.shape[0], N = x.shape[1];
  const Elements xs(x);
  Elements hs(h);
  for (int64_t j = 0; j < N; ++j) {
    for (int64_t k = 0; k < N; ++k) hs.Add(j * N + k, ColumnProduct(xs, N, j, xs, N, k, n));
  }
}

void ReferenceBackend::AddBlockSecondMoment(const Tensor& x, Tensor h) {
  if (failed()) return;
  contract::AddBlockSecondMoment(x, h);
  const int64_t n = x.shape[0], N = x.shape[1], b = h.shape[2];
  const Elements xs(x);
  Elements hs(h);
  for (int64_t j = 0; j < N; ++j) {
    const int64_t begin = j / b * b, end = std::min(N, begin + b);
    for (int64_t k = begin; k < end; ++k) {
      hs.Add(j * b + (k - begin), ColumnProduct(xs, N, j, xs, N, k, n));
    }
  }
}

void ReferenceBackend::AddColumnSums(const Tensor& x, Tensor sums) {
  if (failed()) return;
  contract::AddColumnSums(x, sums);
  const int64_t n = x.shape[0], N = x.shape[1];
  const Elements xs(x);
  Elements out(sums);
  for (int64_t k = 0; k < N; ++k) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += xs[i * N + k];
    out.Add(k, sum);
  }
}

void ReferenceBackend::AddRowSquares(const Tensor& x, Tensor sums) {
  if (failed()) return;
  contract::AddRowSquares(x, sums);
  const int64_t n = x.shape[0], N = x.shape[1];
  const Elements xs(x);
  Elements out(sums);
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (int64_t k = 0; k < N; ++k) sum += static_cast<double>(xs[i * N + k]) * xs[i * N + k];
    out.Add(i, sum);
  }
}

void ReferenceBackend::AddSquaredGradient(const Tensor& gy, const Tensor& x,
                                          const Tensor& row_group, const Tensor& column_group,
                                          Tensor sums) {
  if (failed()) return;
  contract::AddSquaredGradient(gy, x, row_group, column_group, sums);
  const int64_t T = gy.shape[0], M = gy.shape[1], N = x.shape[1], B = sums.shape[1];
  const Elements gys(gy), xs(x);
  const int32_t* rows = row_group.empty() ? nullptr : ConstHostData<int32_t>(row_group);
  const int32_t* columns = column_group.empty() ? nullptr : ConstHostData<int32_t>(column_group);
  std::vector<double> squares(sums.shape.elements());
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t k = 0; k < N; ++k) {
      const double g = ColumnProduct(gys, M, m, xs, N, k, T);
      squares[(rows ? rows[m] : m) * B + (columns ? columns[k] : k)] += g * g;
    }
  }
  Elements out(sums);
  for (size_t i = 0; i < squares.size(); ++i) out.Add(i, squares[i]);
}

}  // namespace cvxq
