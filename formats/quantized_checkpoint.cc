#include "formats/quantized_checkpoint.h"

#include <set>
#include <utility>
#include <vector>

namespace cvxq {
namespace {

constexpr std::string_view kWeight = ".weight";

// The linear whose weight a tensor name means; empty if it is no weight.
std::string LinearOf(const std::string& name) {
  return name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : "";
}

// The type that config.json gives the model, if it is one of those of scales.
std::optional<DType> ModelType(const nlohmann::json& config) {
  for (const char* field : {"dtype", "torch_dtype"}) {
    const auto found = config.find(field);
    if (found == config.end()) continue;
    if (*found == "float32") return DType::kF32;
    if (*found == "float16") return DType::kF16;
    if (*found == "bfloat16") return DType::kBF16;
  }
  return std::nullopt;
}

}  // namespace

StatusOr<std::unique_ptr<QuantizedCheckpoint>> QuantizedCheckpoint::Open(
    std::shared_ptr<const Checkpoint> checkpoint, int threads) {
  const std::string where = checkpoint->folder() + "/config.json";
  CVXQ_ASSIGN_OR_RETURN(
      const QuantizationConfig config,
      QuantizationConfig::Parse(checkpoint->config().value("quantization_config", nlohmann::json()),
                                where));
  std::unique_ptr<QuantizedCheckpoint> source(
      new QuantizedCheckpoint(std::move(checkpoint), threads));
  source->method_ = config.method();
  const std::optional<DType> model = ModelType(source->checkpoint_->config());
  std::set<std::string> linears;
  for (const std::string& name : source->checkpoint_->names()) {
    std::string linear = QuantizedLinearOf(name, source->checkpoint_->Find(name)->dtype);
    if (!linear.empty()) linears.insert(std::move(linear));
  }
  for (const std::string& linear : linears) {
    CVXQ_ASSIGN_OR_RETURN(const StoredScheme scheme, config.Of(linear));
    CVXQ_ASSIGN_OR_RETURN(StoredMatrix matrix,
                          CheckStoredMatrix(*source->checkpoint_, linear, scheme, model));
    for (const std::string& name : matrix.tensors(*source->checkpoint_)) {
      source->owner_[name] = linear;
    }
    source->linears_[linear] = std::move(matrix);
  }
  return source;
}

int64_t QuantizedCheckpoint::parameters() const {
  int64_t sum = 0;
  for (const std::string& name : checkpoint_->names()) {
    if (!owner_.contains(name)) sum += checkpoint_->Find(name)->shape.elements();
  }
  for (const auto& [name, matrix] : linears_) sum += matrix.rows * matrix.columns;
  return sum;
}

std::optional<TensorInfo> QuantizedCheckpoint::Describe(const std::string& name) const {
  if (const auto found = linears_.find(LinearOf(name)); found != linears_.end()) {
    const StoredMatrix& matrix = found->second;
    return TensorInfo{matrix.dtype, {matrix.rows, matrix.columns}};
  }
  const TensorInfo* tensor = owner_.contains(name) ? nullptr : checkpoint_->Find(name);
  return tensor != nullptr ? std::optional(*tensor) : std::nullopt;
}

StatusOr<HostTensor> QuantizedCheckpoint::Dense(const std::string& name) const {
  const auto found = linears_.find(LinearOf(name));
  if (found == linears_.end()) return checkpoint_->Get(name);
  const StoredMatrix& matrix = found->second;
  CVXQ_ASSIGN_OR_RETURN(std::vector<std::byte> values,
                        DecodeStoredMatrix(*checkpoint_, matrix, *pool_));
  Release(name);
  const auto hold = std::make_shared<const std::vector<std::byte>>(std::move(values));
  return HostTensor{{matrix.dtype, {matrix.rows, matrix.columns}}, hold->data(), hold};
}

void QuantizedCheckpoint::Release(const std::string& name) const {
  const auto found = linears_.find(LinearOf(name));
  if (found == linears_.end()) return checkpoint_->Release(name);
  for (const std::string& tensor : found->second.tensors(*checkpoint_)) {
    checkpoint_->Release(tensor);
  }
}

}  // namespace cvxq
