#include "formats/gguf_model.h"

#include <cstring>
#include <filesystem>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/ggml_types.h"
#include "formats/gguf_matrix.h"
#include "formats/gguf_tokenizer.h"
#include "storage/errors.h"

namespace cvxq {
namespace {

constexpr char kRopeDivisors[] = "rope_freqs.weight";
constexpr uint32_t kF32 = 0;

// The scale of a whole matrix lies beside it: blk.0.attn_q.scale.
std::string ScaleName(const std::string& name) {
  return name.substr(0, name.rfind('.')) + ".scale";
}

}  // namespace

StatusOr<std::shared_ptr<const GgufModel>> GgufModel::Open(const std::string& path) {
  std::shared_ptr<GgufModel> model(new GgufModel);
  CVXQ_ASSIGN_OR_RETURN(model->file_, GgufFile::Open(path));
  CVXQ_ASSIGN_OR_RETURN(model->config_, ConfigFromGguf(*model->file_));
  CVXQ_ASSIGN_OR_RETURN(model->spec_, ParseArchSpec(model->config_, path));
  CVXQ_RETURN_IF_ERROR(model->Locate());
  return model;
}

Status GgufModel::Locate() {
  const auto wrong = [&](absl::StatusCode code, const std::string& name, const std::string& what) {
    return Status(code,
                  absl::StrCat("cannot use ", file_->path(), ": tensor ", Quoted(name), " ", what));
  };
  CVXQ_ASSIGN_OR_RETURN(const GgufArchitecture* architecture, FindGgufArchitecture(spec_.family));
  std::set<std::string> expected = {kRopeDivisors};
  for (GgufPlace& place : GgufPlaces(*architecture, spec_)) {
    const GgufTensor* tensor = file_->FindTensor(place.file);
    if (tensor == nullptr && place.kind == GgufPlace::Kind::kBias) continue;
    if (tensor == nullptr) return wrong(absl::StatusCode::kDataLoss, place.file, "is missing");
    if (tensor->shape != place.shape) {
      return wrong(
          absl::StatusCode::kDataLoss, place.file,
          absl::StrCat("has shape ", tensor->shape.ToString(), ", not ", place.shape.ToString()));
    }
    const bool matrix = place.kind == GgufPlace::Kind::kMatrix;
    const GgmlType* type = FindGgmlType(static_cast<int>(tensor->type));
    if (type == nullptr || (!matrix && !type->dense())) {
      return wrong(absl::StatusCode::kUnimplemented, place.file,
                   absl::StrCat("has the type ", tensor->type, ", which cannot be decoded here"));
    }
    expected.insert(place.file);
    Located located{.place = place, .tensor = tensor};
    const GgufTensor* scale = file_->FindTensor(ScaleName(place.file));
    if (matrix && HasMatrixScale(*type) && scale != nullptr) {
      if (scale->type != kF32 || scale->shape != Shape{1}) {
        return wrong(absl::StatusCode::kDataLoss, ScaleName(place.file), "is no single F32");
      }
      std::memcpy(&located.matrix_scale, scale->bytes.data(), sizeof(float));
      expected.insert(ScaleName(place.file));
    }
    located_.emplace(place.checkpoint, std::move(located));
  }
  for (const auto& [name, tensor] : file_->tensors()) {
    if (!expected.contains(name)) {
      return wrong(absl::StatusCode::kUnimplemented, name,
                   "has no place in this model; what it does is not known");
    }
  }
  return absl::OkStatus();
}

StatusOr<std::unique_ptr<const Tokenizer>> GgufModel::LoadTokenizer() const {
  return TokenizerFromGguf(*file_);
}

int64_t GgufModel::parameters() const {
  int64_t sum = 0;
  for (const auto& [name, located] : located_) sum += located.place.shape.elements();
  return sum;
}

const GgufModel::Located* GgufModel::Find(const std::string& checkpoint_name) const {
  const auto it = located_.find(checkpoint_name);
  return it == located_.end() ? nullptr : &it->second;
}

std::optional<TensorInfo> GgufWeights::Describe(const std::string& name) const {
  const GgufModel::Located* located = model_->Find(name);
  if (located == nullptr) return std::nullopt;
  const GgmlType& type = *FindGgmlType(static_cast<int>(located->tensor->type));
  const DType dtype = located->place.plus_one ? DType::kF32 : type.dense().value_or(DType::kF32);
  return TensorInfo{dtype, located->place.shape};
}

StatusOr<HostTensor> GgufWeights::Dense(const std::string& name) const {
  const GgufModel::Located* located = model_->Find(name);
  if (located == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("tensor ", Quoted(name), " is missing in ", model_->file().path()));
  }
  const GgufTensor& tensor = *located->tensor;
  const GgufPlace& place = located->place;
  const GgmlType& type = *FindGgmlType(static_cast<int>(tensor.type));
  const std::vector<int64_t> order = GgufRowOrder(place);
  const int64_t rows = place.shape[0], columns = place.shape.rank() == 2 ? place.shape[1] : 1;
  HostTensor host{{type.dense().value_or(DType::kF32), place.shape}, tensor.bytes.data()};
  if (!type.dense()) {
    const auto values = std::make_shared<const std::vector<float>>(
        DecodeGgufMatrix(type, rows, columns, tensor.bytes, located->matrix_scale, order));
    host.data = reinterpret_cast<const std::byte*>(values->data());
    host.hold = values;
    return host;
  }
  if (order.empty() && !place.plus_one) return host;
  const auto copy = std::make_shared<std::vector<std::byte>>(tensor.bytes.size());
  if (!order.empty()) {
    const int64_t row_bytes = columns * ByteSize(host.dtype);
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(copy->data() + order[r] * row_bytes, tensor.bytes.data() + r * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
  } else {
    CVXQ_ASSIGN_OR_RETURN(std::vector<float> values, ToFloats(host));
    for (float& value : values) value -= 1.0f;
    copy->resize(values.size() * sizeof(float));
    std::memcpy(copy->data(), values.data(), copy->size());
    host.dtype = DType::kF32;
  }
  host.data = copy->data();
  host.hold = copy;
  return host;
}

void GgufWeights::Release(const std::string& name) const {
  const GgufModel::Located* located = model_->Find(name);
  if (located != nullptr) model_->file().Release(*located->tensor);
}

StatusOr<std::string> FindGguf(const std::string& path) {
  std::error_code error;
  if (path.ends_with(".gguf") && !std::filesystem::is_directory(path, error)) return path;
  std::vector<std::string> found;
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name == "config.json") return std::string();
    // Of a set, the first file.
    const size_t part = name.size() < 20 ? std::string::npos : name.rfind("-of-");
    const bool later = part != std::string::npos && part >= 6 && part == name.size() - 14 &&
                       name.substr(part - 6, 6) != "-00001";
    if (name.ends_with(".gguf") && !later) found.push_back(it->path().string());
  }
  if (found.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " holds ", found.size(), " GGUF models; name one of them"));
  }
  return found.empty() ? std::string() : found.front();
}

}  // namespace cvxq
