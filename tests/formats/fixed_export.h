// An export without any choice: every matrix takes the type that is asked for, rounded to nearest.
#ifndef CVXQ_TESTS_FORMATS_FIXED_EXPORT_H_
#define CVXQ_TESTS_FORMATS_FIXED_EXPORT_H_

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "formats/export_format.h"
#include "model/weights.h"

namespace cvxq {

struct FixedExport {
  std::shared_ptr<const Checkpoint> checkpoint;
  ArchSpec spec;
  std::unique_ptr<ExportFormat> format;
  std::vector<const WeightType*> choice;
  std::vector<std::vector<float>> values;  // of each matrix, as the file should have them
};

using MakeFormat = StatusOr<std::unique_ptr<ExportFormat>> (*)(const Checkpoint&, const ArchSpec&,
                                                               const ExportFormatOptions&);

// Each of a row's columns, or the nearest level of each weight to (w - offset) / step.
inline GridMatrix RoundToGrids(const WeightType& type, const std::vector<float>& w, int64_t rows,
                               int64_t columns) {
  GridMatrix m{.type = &type, .rows = rows, .columns = columns};
  float largest = 0;
  for (const float value : w) largest = std::max(largest, std::fabs(value));
  m.matrix_scale = type.MatrixScale(largest);
  const int64_t blocks = columns / type.block(), subs = columns / type.sub();
  m.fields.resize(rows * blocks * type.field_bytes());
  m.step.resize(rows * subs);
  if (type.has_offset()) m.offset.resize(rows * subs);
  m.codes.resize(rows * columns);
  const std::vector<float> weight(columns, 1.0f);
  const std::span<const float> levels = type.levels();
  for (int64_t r = 0; r < rows; ++r) {
    type.Fit(&w[r * columns], weight.data(), blocks, m.matrix_scale,
             &m.fields[r * blocks * type.field_bytes()], &m.step[r * subs],
             type.has_offset() ? &m.offset[r * subs] : nullptr);
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t grid = r * subs + c / type.sub();
      const float offset = type.has_offset() ? m.offset[grid] : 0;
      const float target = (w[r * columns + c] - offset) / m.step[grid];
      const auto above = std::lower_bound(levels.begin(), levels.end(), target);
      int64_t code = std::min<int64_t>(above - levels.begin(), std::ssize(levels) - 1);
      if (code > 0 && target - levels[code - 1] < levels[code] - target) --code;
      m.codes[r * columns + c] = static_cast<uint8_t>(code);
    }
  }
  return m;
}

// Opens the model; matrix i takes type i % (number of its types), those that are tied the same.
inline StatusOr<FixedExport> DrawFixedExport(const std::string& model, MakeFormat make,
                                             const ExportFormatOptions& options) {
  FixedExport out;
  CVXQ_ASSIGN_OR_RETURN(out.checkpoint, Checkpoint::Open(model));
  CVXQ_ASSIGN_OR_RETURN(out.spec, ParseArchSpec(out.checkpoint->config(), model));
  AdaptNames(DenseWeights(out.checkpoint), out.spec);
  CVXQ_ASSIGN_OR_RETURN(out.format, make(*out.checkpoint, out.spec, options));
  const std::vector<ExportMatrix>& matrices = out.format->matrices();
  for (size_t i = 0; i < matrices.size(); ++i) {
    const size_t turn = matrices[i].tie >= 0 ? static_cast<size_t>(matrices[i].tie) : i;
    out.choice.push_back(matrices[i].types[turn % matrices[i].types.size()]);
  }
  out.values.resize(matrices.size());
  return out;
}

// Writes it, and remembers the values that went into the file.
inline Status WriteFixedExport(FixedExport& out, const std::string& folder) {
  return out.format->Write(
      out.choice,
      [&](size_t i) -> StatusOr<ExportedMatrix> {
        const ExportMatrix& matrix = out.format->matrices()[i];
        CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor,
                              out.checkpoint->Get(matrix.name + ".weight"));
        CVXQ_ASSIGN_OR_RETURN(std::vector<float> w, ToFloats(tensor));
        ExportedMatrix exported;
        if (out.choice[i]->dense()) {
          exported.values = out.values[i] = std::move(w);
        } else {
          exported.grid = RoundToGrids(*out.choice[i], w, matrix.rows, matrix.columns);
          out.values[i] = Decode(exported.grid);
        }
        return exported;
      },
      folder);
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_FORMATS_FIXED_EXPORT_H_
