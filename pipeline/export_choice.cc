#include "pipeline/export_choice.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/size.h"

namespace cvxq {
namespace {

// Matrices that must share a type, each alone where it need not.
std::vector<std::vector<size_t>> TiedMatrices(const ExportFormat& format) {
  std::vector<std::vector<size_t>> tied;
  std::map<int64_t, size_t> place;
  for (size_t i = 0; i < format.matrices().size(); ++i) {
    const int64_t tie = format.matrices()[i].tie;
    const auto [found, fresh] = place.emplace(tie, tied.size());
    if (tie < 0 || fresh) {
      if (tie >= 0) found->second = tied.size();
      tied.push_back({i});
    } else {
      tied[found->second].push_back(i);
    }
  }
  return tied;
}

// An export as a problem of type_choice.h: an item for the matrices of a tie, with an option for
// each of their types.
struct Problem {
  Problem(const ExportFormat& of, const TypeDistortions& distortion)
      : format(of), tied(TiedMatrices(of)) {
    for (const std::vector<size_t>& members : tied) {
      TypeOptions& options = items.emplace_back();
      const std::vector<const WeightType*>& types = format.matrices()[members[0]].types;
      for (size_t t = 0; t < types.size(); ++t) {
        TypeOption& option = options.emplace_back();
        for (const size_t i : members) {
          const ExportMatrix& matrix = format.matrices()[i];
          option.bytes += types[t]->Bytes(matrix.rows, matrix.columns);
          option.distortion += distortion[i][t];
        }
      }
    }
  }

  ExportChoice Types(const TypeChoice& found) const {
    ExportChoice choice(format.matrices().size());
    for (size_t item = 0; item < tied.size(); ++item) {
      const std::vector<const WeightType*>& types = format.matrices()[tied[item][0]].types;
      for (const size_t i : tied[item]) choice[i] = types[found.option[item]];
    }
    return choice;
  }

  FittedChoice Fitted(const TypeChoice& found, int64_t limit_bytes) const {
    return {.types = Types(found),
            .limit_bytes = limit_bytes,
            .steps = StepsFrom(items, found),
            .log2_lambda = found.log2_lambda,
            .distortion = found.distortion};
  }

  const ExportFormat& format;
  const std::vector<std::vector<size_t>> tied;
  std::vector<TypeOptions> items;
};

// `status` of ChooseTypes in terms of what was asked for: "--bits 2".
Status TooSmall(const ExportFormat& format, const std::string& asked, const Status& status) {
  if (!absl::IsInvalidArgument(status)) return status;
  ExportChoice least;
  for (const ExportMatrix& matrix : format.matrices()) {
    const WeightType* best = matrix.types[0];
    for (const WeightType* type : matrix.types) {
      if (type->Bytes(matrix.rows, matrix.columns) < best->Bytes(matrix.rows, matrix.columns)) {
        best = type;
      }
    }
    least.push_back(best);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(asked, " is too small for --format ", format.name(), ": the least is ",
                   FormatBytes(format.TotalBytes(least)), " (", BitsOf(format, least),
                   " bits a weight); ask for more, or for other types with --menu"));
}

}  // namespace

StatusOr<FittedChoice> ChooseForBits(const ExportFormat& format, const TypeDistortions& distortion,
                                     double bits) {
  double weights = 0, fixed = 0;  // of matrices with a choice; bytes of others
  for (const ExportMatrix& matrix : format.matrices()) {
    const int64_t bytes = matrix.types[0]->Bytes(matrix.rows, matrix.columns);
    if (HasGrids(matrix)) {
      weights += static_cast<double>(matrix.rows * matrix.columns);
    } else {
      fixed += static_cast<double>(bytes);
    }
  }
  const auto budget = static_cast<int64_t>(fixed + bits * weights / 8);
  const Problem problem(format, distortion);
  const StatusOr<TypeChoice> found = ChooseTypes(problem.items, budget);
  if (!found.ok()) return TooSmall(format, absl::StrFormat("--bits %g", bits), found.status());
  const int64_t limit = format.TotalBytes(problem.Types(*found)) + budget - found->bytes;
  return problem.Fitted(*found, limit);
}

StatusOr<FittedChoice> ChooseForSize(const ExportFormat& format, const TypeDistortions& distortion,
                                     int64_t size) {
  const Problem problem(format, distortion);
  // What else is in the files depends a little on the choice.
  int64_t budget = size;
  std::optional<TypeChoice> best;
  constexpr int kRounds = 8;
  for (int round = 0; round < kRounds; ++round) {
    StatusOr<TypeChoice> found = ChooseTypes(problem.items, budget);
    if (!found.ok() && best) break;
    if (!found.ok()) {
      return TooSmall(format, absl::StrCat("--size ", FormatBytes(size)), found.status());
    }
    const int64_t others = format.TotalBytes(problem.Types(*found)) - found->bytes;
    const int64_t room = size - others;
    const bool fits = found->bytes <= room, settled = fits && room <= budget;
    if (fits && (!best || found->distortion < best->distortion)) best = *std::move(found);
    if (settled) break;
    budget = fits ? room : std::min(budget - 1, room);
  }
  if (!best) return absl::InternalError("the size of the files does not settle");
  return problem.Fitted(*best, size);
}

ExportChoice UniformOf(const ExportFormat& format, const WeightType& asked) {
  constexpr int64_t kMany = 1 << 20;  // columns of any block
  const auto bits = [&](const WeightType& type) {
    return static_cast<double>(type.Bytes(1, kMany));
  };
  ExportChoice choice;
  for (const ExportMatrix& matrix : format.matrices()) {
    const WeightType* best = nullptr;
    const WeightType* largest = matrix.types[0];
    for (const WeightType* type : matrix.types) {
      if (type == &asked) best = type;
      if (bits(*type) > bits(*largest)) largest = type;
    }
    for (const WeightType* type : matrix.types) {
      if (best == &asked || bits(*type) < bits(asked)) continue;
      if (best == nullptr || bits(*type) < bits(*best)) best = type;
    }
    choice.push_back(best != nullptr ? best : largest);
  }
  return choice;
}

StatusOr<ExportChoice> ChooseUniform(const ExportFormat& format, const std::string& name,
                                     bool only) {
  const WeightType* asked = nullptr;
  std::vector<std::string> known;
  for (const ExportMatrix& matrix : format.matrices()) {
    for (const WeightType* type : matrix.types) {
      if (type->name() == name) asked = type;
      if (std::find(known.begin(), known.end(), type->name()) == known.end()) {
        known.push_back(type->name());
      }
    }
  }
  if (asked != nullptr) return UniformOf(format, *asked);
  if (!only) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--uniform ", name, " is no type that a matrix of this model can have; types are ",
        absl::StrJoin(known, ", ")));
  }
  ExportChoice choice;
  for (const ExportMatrix& matrix : format.matrices()) choice.push_back(matrix.types[0]);
  return choice;
}

UniformChoice LargestUniform(const ExportFormat& format, int64_t limit) {
  UniformChoice best;
  int64_t most = 0;  // bytes of the best
  for (const ExportMatrix& matrix : format.matrices()) {
    for (const WeightType* type : matrix.types) {
      if (type->dense()) continue;
      ExportChoice uniform = UniformOf(format, *type);
      const int64_t bytes = format.TotalBytes(uniform);
      if (bytes > limit || (best.type != nullptr && bytes <= most)) continue;
      best = {.type = type, .types = std::move(uniform)};
      most = bytes;
    }
  }
  return best;
}

bool HasGrids(const ExportMatrix& matrix) {
  return std::any_of(matrix.types.begin(), matrix.types.end(),
                     [](const WeightType* type) { return !type->dense(); });
}

double BitsOf(const ExportFormat& format, const ExportChoice& choice) {
  double bytes = 0, weights = 0;
  for (size_t i = 0; i < choice.size(); ++i) {
    const ExportMatrix& matrix = format.matrices()[i];
    if (!HasGrids(matrix)) continue;
    bytes += static_cast<double>(choice[i]->Bytes(matrix.rows, matrix.columns));
    weights += static_cast<double>(matrix.rows * matrix.columns);
  }
  return weights > 0 ? 8 * bytes / weights : 0;
}

}  // namespace cvxq
