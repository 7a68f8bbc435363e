// Exports rounded to nearest, without any choice: the types of each matrix take turns.
#ifndef CVXQ_TESTS_FORMATS_FIXED_EXPORT_H_
#define CVXQ_TESTS_FORMATS_FIXED_EXPORT_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/export_format.h"
#include "formats/grid_coder.h"
#include "model/weights.h"

namespace cvxq {

// A matrix of the checkpoint in a type that it can have, rounded to nearest.
inline StatusOr<ExportedMatrix> NearestMatrix(const Checkpoint& checkpoint,
                                              const ExportMatrix& matrix, const WeightType& type) {
  CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint.Get(matrix.name + ".weight"));
  CVXQ_ASSIGN_OR_RETURN(std::vector<float> w, ToFloats(tensor));
  if (type.dense()) return ExportedMatrix{.grid = {}, .values = std::move(w)};
  ThreadPool pool(1);
  return ExportedMatrix{
      .grid =
          CodeNearest({.w = w.data(), .rows = matrix.rows, .columns = matrix.columns}, type, pool),
      .values = {}};
}

struct FixedExport {
  std::shared_ptr<const Checkpoint> checkpoint;
  ArchSpec spec;
  std::unique_ptr<ExportFormat> format;
  std::vector<const WeightType*> choice;
  std::vector<std::vector<float>> values;  // of each matrix, as the file should have them
};

using MakeFormat = StatusOr<std::unique_ptr<ExportFormat>> (*)(const Checkpoint&, const ArchSpec&,
                                                               const ExportFormatOptions&);

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
        CVXQ_ASSIGN_OR_RETURN(
            ExportedMatrix exported,
            NearestMatrix(*out.checkpoint, out.format->matrices()[i], *out.choice[i]));
        out.values[i] = out.choice[i]->dense() ? exported.values : Decode(exported.grid);
        return exported;
      },
      folder);
}

}  // namespace cvxq

#endif  // CVXQ_TESTS_FORMATS_FIXED_EXPORT_H_
