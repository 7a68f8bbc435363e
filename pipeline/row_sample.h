// Some rows of a matrix in the place of all: what a type loses on a large matrix is measured on
// them.
#ifndef CVXQ_PIPELINE_ROW_SAMPLE_H_
#define CVXQ_PIPELINE_ROW_SAMPLE_H_

#include <cstdint>
#include <vector>

#include "pipeline/export_statistics.h"

namespace cvxq {

// The distortion of these rows times `scale` stands for that of all.
struct RowSample {
  std::vector<float> w;       // [rows, N]
  MatrixCurvature curvature;  // its blocks count rows of the sample
  int64_t rows = 0;
  double scale = 1;
};

// About `measured_rows` rows of w [M, N], evenly spread and whole blocks of those that feed one
// another; all rows where these are more than half of them. `columns`: N.
RowSample SampleRows(std::vector<float> w, MatrixCurvature curvature, int64_t columns,
                     int64_t measured_rows);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_ROW_SAMPLE_H_
