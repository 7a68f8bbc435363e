// The type that each matrix of an export gets: for bits or a size, the types that lose least
// (type_choice.h), seen with all that is in the files; or one type wherever it can be.
#ifndef CVXQ_PIPELINE_EXPORT_CHOICE_H_
#define CVXQ_PIPELINE_EXPORT_CHOICE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "formats/export_format.h"
#include "pipeline/type_choice.h"

namespace cvxq {

using ExportChoice = std::vector<const WeightType*>;       // of every matrix of the format
using TypeDistortions = std::vector<std::vector<double>>;  // by matrix and type, nats a token

struct FittedChoice {
  ExportChoice types;
  int64_t limit_bytes = 0;  // of all files that were asked for
  TypeSteps steps;
  double log2_lambda = 0, distortion = 0;
};

// The types of least distortion for so many bits a weight of the matrices that have a choice, or so
// many bytes of all files. Matrices of one tie get one type. kInvalidArgument for a target below
// the least that the format can do, with that.
StatusOr<FittedChoice> ChooseForBits(const ExportFormat& format, const TypeDistortions& distortion,
                                     double bits);
StatusOr<FittedChoice> ChooseForSize(const ExportFormat& format, const TypeDistortions& distortion,
                                     int64_t size);

// One type wherever it can be; elsewhere the smallest that is no smaller, else the largest.
ExportChoice UniformOf(const ExportFormat& format, const WeightType& asked);
// Of that name. Where it can be nowhere, what the format has in its place if it is the `only` type
// of the menu, else kInvalidArgument with the names of all types.
StatusOr<ExportChoice> ChooseUniform(const ExportFormat& format, const std::string& name,
                                     bool only);

struct UniformChoice {
  const WeightType* type = nullptr;  // none where nothing is small enough
  ExportChoice types;
};
// The largest of the files with one grid type everywhere that have at most `limit` bytes.
UniformChoice LargestUniform(const ExportFormat& format, int64_t limit);

// Whether any of its types is not dense: such matrices have a choice.
bool HasGrids(const ExportMatrix& matrix);
// Bits a weight of the matrices that have a choice.
double BitsOf(const ExportFormat& format, const ExportChoice& choice);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_EXPORT_CHOICE_H_
