// Embedding, positions and norms.
#include <cmath>
#include <vector>

#include "kernels/contract.h"
#include "kernels/reference/elements.h"
#include "kernels/reference/reference_backend.h"

namespace cvxq {

using reference::Elements;

void ReferenceBackend::Embed(const Tensor& table, const Tensor& ids, float scale, Tensor y) {
  if (failed()) return;
  contract::Embed(table, ids, y);
  const int64_t n = ids.shape.elements(), V = table.shape[0], D = table.shape[1];
  const Elements rows(table);
  const int32_t* id = ConstHostData<int32_t>(ids);
  Elements ys(y);
  for (int64_t i = 0; i < n; ++i) {
    Require(id[i] >= 0 && id[i] < V, "Embed: an id is outside the table");
    for (int64_t d = 0; d < D; ++d) ys.Set(i * D + d, scale * rows[id[i] * D + d]);
  }
}

void ReferenceBackend::AddPositions(const Tensor& table, int64_t position, int64_t T, Tensor y) {
  if (failed()) return;
  contract::AddPositions(table, position, T, y);
  const int64_t n = y.shape[0], D = y.shape[1];
  const Elements rows(table);
  Elements ys(y);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t d = 0; d < D; ++d) ys.Add(i * D + d, rows[(position + i % T) * D + d]);
  }
}

namespace {

// mean (0 for the RMS kinds) and 1 / sqrt(mean square of (x - mean) + epsilon) of one row.
struct RowMoments {
  double mean = 0, inverse = 0;
};

RowMoments Moments(NormKind kind, float epsilon, const Elements& x, int64_t row, int64_t d) {
  RowMoments moments;
  if (kind == NormKind::kLayer) {
    for (int64_t j = 0; j < d; ++j) moments.mean += x[row * d + j] / d;
  }
  double square = 0;
  for (int64_t j = 0; j < d; ++j) square += std::pow(x[row * d + j] - moments.mean, 2) / d;
  moments.inverse = 1 / std::sqrt(square + epsilon);
  return moments;
}

// The factor of column j in row i: w, 1 + w, or 1.
double Factor(NormKind kind, const Elements& w, int64_t weight_rows, int64_t i, int64_t j,
              int64_t d) {
  if (w.empty()) return 1;
  const double value = w[i % weight_rows * d + j];
  return kind == NormKind::kRmsPlusOne ? 1 + value : value;
}

int64_t WeightRows(const Tensor& w) { return w.shape.rank() == 2 ? w.shape[0] : 1; }

}  // namespace

void ReferenceBackend::Norm(NormKind kind, float epsilon, const Tensor& x, const Tensor& w,
                            const Tensor& b, Tensor y) {
  if (failed()) return;
  contract::Norm(x, w, b, y);
  const int64_t n = x.shape[0], d = x.shape[1];
  const Elements xs(x), ws(w), bs(b);
  Elements ys(y);
  for (int64_t i = 0; i < n; ++i) {
    const RowMoments m = Moments(kind, epsilon, xs, i, d);
    for (int64_t j = 0; j < d; ++j) {
      const double bias = bs.empty() ? 0 : bs[i % WeightRows(b) * d + j];
      const double normal = (xs[i * d + j] - m.mean) * m.inverse;
      ys.Set(i * d + j, normal * Factor(kind, ws, WeightRows(w), i, j, d) + bias);
    }
  }
}

// With z = (x - mean) r and u = gy w: gx = r (u - [layer: mean(u)] - z mean(u z)).
void ReferenceBackend::NormBackward(NormKind kind, float epsilon, const Tensor& x, const Tensor& w,
                                    const Tensor& gy, Tensor gx, bool accumulate) {
  if (failed()) return;
  contract::NormBackward(x, w, gy, gx);
  const int64_t n = x.shape[0], d = x.shape[1];
  const Elements xs(x), ws(w), gys(gy);
  Elements gxs(gx);
  std::vector<double> u(d), z(d);
  for (int64_t i = 0; i < n; ++i) {
    const RowMoments m = Moments(kind, epsilon, xs, i, d);
    double mean_u = 0, mean_uz = 0;
    for (int64_t j = 0; j < d; ++j) {
      u[j] = gys[i * d + j] * Factor(kind, ws, WeightRows(w), i, j, d);
      z[j] = (xs[i * d + j] - m.mean) * m.inverse;
      if (kind == NormKind::kLayer) mean_u += u[j] / d;
      mean_uz += u[j] * z[j] / d;
    }
    for (int64_t j = 0; j < d; ++j) {
      const double g = m.inverse * (u[j] - mean_u - z[j] * mean_uz);
      gxs.Set(i * d + j, accumulate ? gxs[i * d + j] + g : g);
    }
  }
}

void ReferenceBackend::AddNormGradient(NormKind kind, float epsilon, const Tensor& x,
                                       const Tensor& gy, Tensor gw) {
  if (failed()) return;
  contract::AddNormGradient(x, gy, gw);
  const int64_t n = x.shape[0], d = x.shape[1];
  const Elements xs(x), gys(gy);
  Elements out(gw);
  std::vector<double> sum(gw.shape.elements());
  for (int64_t i = 0; i < n; ++i) {
    const RowMoments m = Moments(kind, epsilon, xs, i, d);
    for (int64_t j = 0; j < d; ++j) {
      sum[i % WeightRows(gw) * d + j] += gys[i * d + j] * (xs[i * d + j] - m.mean) * m.inverse;
    }
  }
  for (size_t j = 0; j < sum.size(); ++j) out.Add(j, sum[j]);
}

}  // namespace cvxq
