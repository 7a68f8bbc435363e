#include "model/weights.h"

#include <cstring>
#include <variant>
#include <vector>

#include "model/layers.h"

namespace cvxq {
namespace {

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

// The bits of a float type's exponent, all set in a NaN or Inf, and the lowest of them, repeated
// over a 64-bit word.
struct ExponentBits {
  uint64_t mask, lowest, sign;
};

ExponentBits ExponentOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {0x7f8000007f800000u, 0x0080000000800000u, 0x8000000080000000u};
    case DType::kBF16:
      return {0x7f807f807f807f80u, 0x0080008000800080u, 0x8000800080008000u};
    default:
      return {0x7c007c007c007c00u, 0x0400040004000400u, 0x8000800080008000u};
  }
}

// Whether no element is a NaN or Inf. A word holds two or four elements: adding the lowest bit of
// the exponent carries into the (masked) sign just where the exponent is all ones.
bool AllFinite(const HostTensor& tensor) {
  const ExponentBits bits = ExponentOf(tensor.dtype);
  const int64_t words = tensor.bytes() / 8;
  uint64_t found = 0;
  for (int64_t i = 0; i < words; ++i) {
    uint64_t word;
    std::memcpy(&word, tensor.data + 8 * i, 8);
    found |= (word & bits.mask) + bits.lowest;
  }
  uint64_t last = 0;
  std::memcpy(&last, tensor.data + 8 * words, tensor.bytes() - 8 * words);
  found |= (last & bits.mask) + bits.lowest;
  return (found & bits.sign) == 0;
}

Status Broken(const std::string& name, const std::string& text) {
  return absl::DataLossError(absl::StrCat("tensor ", name, " ", text));
}

// A tensor's name, shape and type are right.
Status CheckTensor(const WeightSource& source, const std::string& name, const Shape& shape) {
  const std::optional<TensorInfo> info = source.Describe(name);
  if (!info) return Broken(name, "is missing from the checkpoint");
  if (!IsFloat(info->dtype)) {
    return absl::UnimplementedError(absl::StrCat("tensor ", name, " has type ",
                                                 std::string(Name(info->dtype)),
                                                 "; only F32, F16 and BF16 are supported"));
  }
  if (info->shape != shape) {
    return Broken(name, absl::StrCat("has shape ", info->shape.ToString(),
                                     ", but the config asks for ", shape.ToString()));
  }
  return absl::OkStatus();
}

bool HasBias(const WeightSource& source, const ArchSpec& spec, const std::string& name,
             LinearId id) {
  return spec.bias[static_cast<int>(id)] || source.Describe(name + ".bias").has_value();
}

// Hands a quantised matrix to the backend; adds the bytes that it takes.
void ImportCodes(const std::shared_ptr<const LinearCodes>& codes, DType compute, Backend& backend,
                 LinearWeight& linear, int64_t& bytes) {
  if (const auto* packed = std::get_if<PackedMatrix>(codes.get())) {
    linear.packed = backend.ImportPacked(*packed, compute);
    bytes += packed->codes.size() + packed->depth.size() +
             sizeof(float) * (packed->scale.size() + packed->mean.size());
  } else if (const auto* scaled = std::get_if<ScaledMatrix>(codes.get())) {
    linear.packed =
        backend.ImportPacked(std::shared_ptr<const ScaledMatrix>(codes, scaled), compute);
    bytes += scaled->codes.size() + sizeof(ScaledOutlier) * scaled->outliers.size() +
             sizeof(float) * (scaled->row_scale.size() + scaled->column_scale.size());
  } else {
    const std::vector<float> w = Decode(*codes);
    const Tensor decoded = backend.Allocate(DType::kF32, {RowsOf(*codes), ColumnsOf(*codes)});
    backend.Upload(w.data(), decoded);
    linear.dense = ToCompute(decoded, compute, backend);
    bytes += linear.dense.bytes();
  }
}

StatusOr<LinearWeight> LoadLinear(const WeightSource& source, const ArchSpec& spec, int64_t index,
                                  LinearId id, DType compute, Backend& backend, int64_t& bytes) {
  const std::string name = spec.LinearName(index, id);
  const int64_t M = spec.rows(id), N = spec.columns(id);
  LinearWeight linear;
  if (source.IsPacked(name)) {
    CVXQ_ASSIGN_OR_RETURN(const auto codes, source.Packed(name));
    const Shape shape{RowsOf(*codes), ColumnsOf(*codes)}, expected{M, N};
    if (shape != expected) {
      return Broken(name, absl::StrCat("is packed as ", shape.ToString(),
                                       ", but the config asks for ", expected.ToString()));
    }
    ImportCodes(codes, compute, backend, linear, bytes);
  } else {
    CVXQ_ASSIGN_OR_RETURN(linear.dense,
                          LoadTensor(source, name + ".weight", {M, N}, compute, backend));
    bytes += linear.dense.bytes();
  }
  if (HasBias(source, spec, name, id)) {
    CVXQ_ASSIGN_OR_RETURN(linear.bias,
                          LoadTensor(source, name + ".bias", {M}, DType::kF32, backend));
    bytes += linear.bias.bytes();
  }
  return linear;
}

}  // namespace

std::optional<TensorInfo> DenseWeights::Describe(const std::string& name) const {
  const TensorInfo* found = checkpoint_->Find(name);
  return found != nullptr ? std::optional(*found) : std::nullopt;
}

StatusOr<HostTensor> DenseWeights::Dense(const std::string& name) const {
  return checkpoint_->Get(name);
}

void DenseWeights::Release(const std::string& name) const { checkpoint_->Release(name); }

void AdaptNames(const WeightSource& source, ArchSpec& spec) {
  const std::string prefix = "model.";
  const std::string embedding = spec.names.embedding + ".weight";
  if (embedding.rfind(prefix, 0) != 0 || source.Describe(embedding).has_value() ||
      !source.Describe(embedding.substr(prefix.size())).has_value()) {
    return;
  }
  ArchSpec::Names& names = spec.names;
  std::vector<std::string*> all = {&names.embedding,   &names.positions,  &names.project_in,
                                   &names.project_out, &names.final_norm, &names.head,
                                   &names.norm1,       &names.norm1_post, &names.norm2,
                                   &names.norm2_post,  &names.query_norm, &names.key_norm};
  for (std::string& linear : names.linear) all.push_back(&linear);
  for (std::string* name : all) {
    if (name->rfind(prefix, 0) == 0) name->erase(0, prefix.size());
  }
}

StatusOr<Tensor> LoadTensor(const WeightSource& source, const std::string& name, const Shape& shape,
                            std::optional<DType> dtype, Backend& backend) {
  CVXQ_RETURN_IF_ERROR(CheckTensor(source, name, shape));
  CVXQ_ASSIGN_OR_RETURN(const HostTensor host, source.Dense(name));
  CVXQ_RETURN_IF_ERROR(source.Verify(name));
  if (!AllFinite(host)) return Broken(name, "holds a value that is not finite (NaN or Inf)");
  Tensor stored = backend.Import(host);
  if (host.dtype == dtype.value_or(host.dtype)) return stored;
  Tensor converted = backend.Allocate(*dtype, shape);
  backend.Convert(stored, converted);
  source.Release(name);
  return converted;
}

StatusOr<NormWeight> LoadNorm(const WeightSource& source, const std::string& name,
                              const Shape& shape, bool weight, bool bias, Backend& backend) {
  NormWeight norm;
  if (weight) {
    CVXQ_ASSIGN_OR_RETURN(norm.w,
                          LoadTensor(source, name + ".weight", shape, DType::kF32, backend));
  }
  if (bias) {
    CVXQ_ASSIGN_OR_RETURN(norm.b, LoadTensor(source, name + ".bias", shape, DType::kF32, backend));
  }
  return norm;
}

std::vector<NormPlace> BlockNorms(const ArchSpec& spec) {
  const Shape row{spec.hidden};
  const auto per_head = [&](int heads) {
    return spec.qk_norm_per_head ? Shape{heads, spec.head_dim} : Shape{spec.head_dim};
  };
  const ArchSpec::Names& names = spec.names;
  std::vector<NormPlace> all;
  const auto add = [&](const std::string& name, const Shape& shape, bool weight, bool bias,
                       NormWeight BlockWeights::*member) {
    if (!name.empty()) all.push_back({name, shape, weight, bias, member});
  };
  add(names.norm1, row, spec.norm_weight, spec.norm_bias, &BlockWeights::norm1);
  add(names.norm1_post, row, spec.norm_weight, spec.norm_bias, &BlockWeights::norm1_post);
  add(names.norm2, row, spec.norm_weight, spec.norm_bias, &BlockWeights::norm2);
  add(names.norm2_post, row, spec.norm_weight, spec.norm_bias, &BlockWeights::norm2_post);
  add(names.query_norm, per_head(spec.heads), true, false, &BlockWeights::query_norm);
  add(names.key_norm, per_head(spec.kv_heads), true, false, &BlockWeights::key_norm);
  return all;
}

Status CheckBlock(const WeightSource& source, const ArchSpec& spec, int64_t index) {
  for (const LinearId id : spec.linears()) {
    const std::string name = spec.LinearName(index, id);
    const int64_t M = spec.rows(id), N = spec.columns(id);
    if (!source.IsPacked(name)) {
      CVXQ_RETURN_IF_ERROR(CheckTensor(source, name + ".weight", {M, N}));
    }
    if (HasBias(source, spec, name, id)) {
      CVXQ_RETURN_IF_ERROR(CheckTensor(source, name + ".bias", {M}));
    }
  }
  for (const NormPlace& norm : BlockNorms(spec)) {
    const std::string name = BlockName(norm.name, index);
    if (norm.weight) {
      CVXQ_RETURN_IF_ERROR(CheckTensor(source, name + ".weight", norm.shape));
    }
    if (norm.bias) {
      CVXQ_RETURN_IF_ERROR(CheckTensor(source, name + ".bias", norm.shape));
    }
  }
  return absl::OkStatus();
}

void ReleaseBlock(const WeightSource& source, const ArchSpec& spec, int64_t index) {
  for (const LinearId id : spec.linears()) {
    source.Release(spec.LinearName(index, id) + ".weight");
  }
}

StatusOr<BlockWeights> LoadBlock(const WeightSource& source, const ArchSpec& spec, int64_t index,
                                 DType compute, Backend& backend) {
  BlockWeights weights;
  for (const LinearId id : spec.linears()) {
    CVXQ_ASSIGN_OR_RETURN(weights.linear[static_cast<int>(id)],
                          LoadLinear(source, spec, index, id, compute, backend, weights.bytes));
  }
  for (const NormPlace& norm : BlockNorms(spec)) {
    CVXQ_ASSIGN_OR_RETURN(NormWeight loaded, LoadNorm(source, BlockName(norm.name, index),
                                                      norm.shape, norm.weight, norm.bias, backend));
    for (const Tensor& part : {loaded.w, loaded.b}) {
      if (!part.empty()) weights.bytes += part.bytes();
    }
    weights.*norm.member = std::move(loaded);
  }
  return weights;
}

Status ReloadParameters(const WeightSource& source, const ArchSpec& spec, int64_t index,
                        Backend& backend, BlockWeights& weights) {
  for (const LinearId id : spec.linears()) {
    Tensor& bias = weights.linear[static_cast<int>(id)].bias;
    if (bias.empty()) continue;
    CVXQ_ASSIGN_OR_RETURN(bias, LoadTensor(source, spec.LinearName(index, id) + ".bias", bias.shape,
                                           DType::kF32, backend));
  }
  for (const NormPlace& norm : BlockNorms(spec)) {
    CVXQ_ASSIGN_OR_RETURN(
        weights.*norm.member,
        LoadNorm(source, BlockName(norm.name, index), norm.shape, norm.weight, norm.bias, backend));
  }
  return absl::OkStatus();
}

}  // namespace cvxq
