#include "formats/stored_matrix.h"

#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/awq_words.h"
#include "formats/stored_tensors.h"

namespace cvxq {
namespace {

using Layout = StoredScheme::Layout;

// Tensors that only quantised linears have, and all that may belong to one.
constexpr std::array<std::string_view, 2> kOwn = {".weight_packed", ".qweight"};
constexpr std::array<std::string_view, 10> kTensors = {".weight",
                                                       ".weight_packed",
                                                       ".weight_scale",
                                                       ".weight_shape",
                                                       ".weight_zero_point",
                                                       ".weight_global_scale",
                                                       ".qweight",
                                                       ".qzeros",
                                                       ".scales",
                                                       ".g_idx"};

Status SetGroups(const LinearTensors& tensors, const char* suffix, StoredMatrix& m) {
  if (m.scheme.group > 0 && m.columns % m.scheme.group != 0) {
    return tensors.Wrong(
        suffix, absl::StrCat("is of ", m.columns, " columns, in groups of ", m.scheme.group));
  }
  m.groups = m.scheme.group > 0 ? m.columns / m.scheme.group : 1;
  return absl::OkStatus();
}

// The scales of compressed-tensors: [M, groups], or one for all ([1] or [1, 1]).
Status CheckScales(const LinearTensors& tensors, StoredMatrix& m) {
  const TensorInfo* found = tensors.Find(".weight_scale");
  if (found != nullptr && found->shape.elements() == 1 && m.scheme.group == 0 &&
      IsScaleType(found->dtype)) {
    m.one_scale = true;
    m.dtype = found->dtype;
    return absl::OkStatus();
  }
  if (found != nullptr && found->shape.rank() == 1 && m.groups == 1) {
    CVXQ_RETURN_IF_ERROR(tensors.Shaped(".weight_scale", std::nullopt, {m.rows}));
  } else {
    CVXQ_RETURN_IF_ERROR(tensors.Shaped(".weight_scale", std::nullopt, {m.rows, m.groups}));
  }
  m.dtype = tensors.Find(".weight_scale")->dtype;
  return absl::OkStatus();
}

Status CheckPackedInt(const LinearTensors& tensors, StoredMatrix& m) {
  const int bits = m.scheme.bits;
  CVXQ_ASSIGN_OR_RETURN(const TensorInfo packed, tensors.Must(".weight_packed", DType::kI32, 2));
  CVXQ_RETURN_IF_ERROR(tensors.Shaped(".weight_shape", DType::kI64, {2}));
  CVXQ_ASSIGN_OR_RETURN(const HostTensor shape, tensors.Get(".weight_shape"));
  int64_t extents[2];
  std::memcpy(extents, shape.data, sizeof(extents));
  m.rows = packed.shape[0];
  m.columns = extents[1];
  const int64_t words = packed.shape[1];
  if (extents[0] != m.rows || m.columns < 1 || m.columns > words * kWordBits) {
    return tensors.Wrong(".weight_shape", absl::StrCat("says ", extents[0], " x ", extents[1],
                                                       ", which does not fit the codes"));
  }
  if (words != WordsFor(m.columns, bits)) {
    if (words != PaddedWords(m.columns, bits)) return tensors.WrongShape(".weight_packed", packed);
    m.padded_words = true;
  }
  CVXQ_RETURN_IF_ERROR(SetGroups(tensors, ".weight_packed", m));
  CVXQ_RETURN_IF_ERROR(CheckScales(tensors, m));
  if (m.scheme.symmetric) return absl::OkStatus();
  const int64_t zeros = m.padded_words ? PaddedWords(m.rows, bits) : WordsFor(m.rows, bits);
  return tensors.Shaped(".weight_zero_point", DType::kI32, {zeros, m.groups});
}

Status CheckWhole(const LinearTensors& tensors, DType codes, StoredMatrix& m) {
  CVXQ_ASSIGN_OR_RETURN(const TensorInfo weight, tensors.Must(".weight", codes, 2));
  m.rows = weight.shape[0];
  m.columns = weight.shape[1];
  CVXQ_RETURN_IF_ERROR(SetGroups(tensors, ".weight", m));
  CVXQ_RETURN_IF_ERROR(CheckScales(tensors, m));
  if (m.scheme.symmetric) return absl::OkStatus();
  return tensors.Shaped(".weight_zero_point", DType::kI8, {m.rows, m.groups});
}

Status CheckFp4(const LinearTensors& tensors, StoredMatrix& m) {
  const bool nv = m.scheme.layout == Layout::kNvfp4;
  CVXQ_ASSIGN_OR_RETURN(const TensorInfo packed, tensors.Must(".weight_packed", DType::kU8, 2));
  m.rows = packed.shape[0];
  m.columns = 2 * packed.shape[1];
  CVXQ_RETURN_IF_ERROR(SetGroups(tensors, ".weight_packed", m));
  CVXQ_RETURN_IF_ERROR(
      tensors.Shaped(".weight_scale", nv ? DType::kF8E4M3 : DType::kU8, {m.rows, m.groups}));
  return nv ? tensors.Shaped(".weight_global_scale", DType::kF32, {1}) : absl::OkStatus();
}

Status CheckWords(const LinearTensors& tensors, StoredMatrix& m) {
  const int bits = m.scheme.bits;
  CVXQ_ASSIGN_OR_RETURN(const TensorInfo codes, tensors.Must(".qweight", DType::kI32, 2));
  CVXQ_ASSIGN_OR_RETURN(const TensorInfo scales, tensors.Must(".scales", std::nullopt, 2));
  m.rows = scales.shape[1];
  m.dtype = scales.dtype;
  const bool awq = m.scheme.layout == Layout::kAwq;
  m.columns = awq ? codes.shape[0] : codes.shape[0] * kWordBits / bits;
  const Shape expected =
      awq ? Shape{m.columns, m.rows / kAwqWord} : Shape{WordsFor(m.columns, bits), m.rows};
  if (codes.shape != expected || (awq && m.rows % kAwqWord != 0)) {
    return tensors.WrongShape(".qweight", codes);
  }
  if (const TensorInfo* order = tensors.Find(".g_idx"); order != nullptr && !awq) {
    CVXQ_RETURN_IF_ERROR(tensors.Shaped(".g_idx", DType::kI32, {m.columns}));
    m.has_order = true;
    m.groups = scales.shape[0];
  } else {
    CVXQ_RETURN_IF_ERROR(SetGroups(tensors, ".qweight", m));
  }
  CVXQ_RETURN_IF_ERROR(tensors.Shaped(".scales", std::nullopt, {m.groups, m.rows}));
  return tensors.Shaped(".qzeros", DType::kI32, {m.groups, WordsFor(m.rows, bits)});
}

}  // namespace

bool IsScaleType(DType dtype) {
  return dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF32;
}

StatusOr<TensorInfo> LinearTensors::Must(const char* suffix, std::optional<DType> dtype,
                                         int rank) const {
  constexpr int64_t kLargestExtent = int64_t{1} << 31;
  const TensorInfo* found = Find(suffix);
  if (found == nullptr) return Wrong(suffix, "is missing");
  if (dtype ? found->dtype != *dtype : !IsScaleType(found->dtype)) {
    return Wrong(suffix, absl::StrCat("has type ", std::string(Name(found->dtype))));
  }
  if (found->shape.rank() != rank) return WrongShape(suffix, *found);
  for (const int64_t extent : found->shape.extents()) {
    if (extent < 1 || extent > kLargestExtent) return WrongShape(suffix, *found);
  }
  return *found;
}

Status LinearTensors::Shaped(const char* suffix, std::optional<DType> dtype,
                             const Shape& shape) const {
  CVXQ_ASSIGN_OR_RETURN(const TensorInfo found, Must(suffix, dtype, shape.rank()));
  return found.shape == shape ? absl::OkStatus() : WrongShape(suffix, found);
}

Status LinearTensors::Wrong(const char* suffix, const std::string& what) const {
  return absl::DataLossError(absl::StrCat(checkpoint_.folder(), ": tensor ", linear_, suffix, " ",
                                          what, "; get the file again"));
}

Status LinearTensors::WrongShape(const char* suffix, const TensorInfo& found) const {
  return Wrong(suffix, absl::StrCat("has the shape ", found.shape.ToString(),
                                    ", which does not fit the others"));
}

std::vector<std::string> StoredMatrix::tensors(const Checkpoint& checkpoint) const {
  std::vector<std::string> names;
  for (const std::string_view suffix : kTensors) {
    std::string tensor = absl::StrCat(name, std::string(suffix));
    if (checkpoint.Find(tensor) != nullptr) names.push_back(std::move(tensor));
  }
  return names;
}

std::string QuantizedLinearOf(std::string_view tensor, DType dtype) {
  for (const std::string_view suffix : kOwn) {
    if (tensor.ends_with(suffix))
      return std::string(tensor.substr(0, tensor.size() - suffix.size()));
  }
  constexpr std::string_view kWeight = ".weight";
  const bool codes = dtype == DType::kF8E4M3 || dtype == DType::kI8;
  if (!codes || !tensor.ends_with(kWeight)) return "";
  return std::string(tensor.substr(0, tensor.size() - kWeight.size()));
}

StatusOr<StoredMatrix> CheckStoredMatrix(const Checkpoint& checkpoint, const std::string& name,
                                         const StoredScheme& scheme, std::optional<DType> model) {
  StoredMatrix m{.name = name, .scheme = scheme};
  const LinearTensors tensors(checkpoint, name);
  const auto check = [&] {
    switch (scheme.layout) {
      case Layout::kPackedInt:
        return CheckPackedInt(tensors, m);
      case Layout::kInt8:
        return CheckWhole(tensors, DType::kI8, m);
      case Layout::kFp8:
        return CheckWhole(tensors, DType::kF8E4M3, m);
      case Layout::kNvfp4:
      case Layout::kMxfp4:
        return CheckFp4(tensors, m);
      default:
        return CheckWords(tensors, m);
    }
  };
  CVXQ_RETURN_IF_ERROR(check());
  const bool scaled = scheme.layout == Layout::kPackedInt || scheme.layout == Layout::kInt8 ||
                      scheme.layout == Layout::kFp8;
  if (scaled && model) m.dtype = *model;
  return m;
}

}  // namespace cvxq
