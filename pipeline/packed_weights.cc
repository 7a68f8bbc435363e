#include "pipeline/packed_weights.h"

#include <zlib.h>

#include <cstring>
#include <span>
#include <utility>

#include "absl/strings/str_format.h"
#include "quant/affine_format.h"
#include "quant/scaled_format.h"

namespace cvxq {
namespace {

constexpr int64_t kTableFloats = 510;  // 2 + 4 + ... + 256

std::span<const uint8_t> BytesOf(const HostTensor& tensor) {
  return {reinterpret_cast<const uint8_t*>(tensor.data), static_cast<size_t>(tensor.bytes())};
}

// The same error, with the file and tensor that it is about.
Status About(const Checkpoint& checkpoint, const std::string& name, const Status& status) {
  return Status(status.code(),
                absl::StrCat(checkpoint.folder(), ": ", name, ": ", status.message()));
}

// The first 8 bytes of a linear in the packed and affine forms are its shape.
Shape StoredShape(const HostTensor& tensor) {
  if (tensor.bytes() < 8) return {0, 0};
  uint32_t shape[2];
  std::memcpy(shape, tensor.data, sizeof(shape));
  return {shape[0], shape[1]};
}

bool HasForm(const Checkpoint& checkpoint, LinearForm form) {
  for (const std::string& name : checkpoint.names()) {
    if (FormOf(name) == form) return true;
  }
  return false;
}

}  // namespace

std::optional<LinearForm> FormOf(std::string_view name) {
  for (size_t form = 0; form < kFormSuffixes.size(); ++form) {
    if (name.ends_with(kFormSuffixes[form])) return static_cast<LinearForm>(form);
  }
  return std::nullopt;
}

bool IsQuantizedTensor(std::string_view name) {
  return name == kTablesName || name == kEntropyName || FormOf(name).has_value();
}

std::string ChecksumKey(std::string_view name) { return "crc32." + std::string(name); }

std::string ChecksumValue(std::span<const std::byte> bytes) {
  return absl::StrFormat("%08x",
                         crc32_z(0, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

std::vector<float> FlattenTables(const std::vector<TableSet>& families) {
  std::vector<float> flat;
  for (const TableSet& family : families) {
    for (int b = 1; b <= kMaxDepth; ++b) {
      flat.insert(flat.end(), family[b].begin(), family[b].end());
    }
  }
  return flat;
}

StatusOr<std::unique_ptr<PackedWeights>> PackedWeights::Open(
    std::shared_ptr<const Checkpoint> checkpoint, int threads) {
  std::unique_ptr<PackedWeights> weights(new PackedWeights(std::move(checkpoint), threads));
  if (HasForm(*weights->checkpoint_, LinearForm::kPacked)) {
    CVXQ_RETURN_IF_ERROR(weights->ReadTables());
  }
  if (HasForm(*weights->checkpoint_, LinearForm::kScaled)) {
    CVXQ_RETURN_IF_ERROR(weights->ReadEntropy());
  }
  return weights;
}

Status PackedWeights::ReadTables() {
  const std::string name(kTablesName);
  CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint_->Get(name));
  if (tensor.dtype != DType::kF32 || tensor.shape.rank() != 2 || tensor.shape[1] != kTableFloats ||
      tensor.shape[0] < 1 || tensor.shape[0] > 256) {
    return absl::DataLossError(
        absl::StrCat(checkpoint_->folder(), ": ", name, " does not have the form of level tables"));
  }
  CVXQ_RETURN_IF_ERROR(Verify(name));
  CVXQ_ASSIGN_OR_RETURN(const std::vector<float> flat, ToFloats(tensor));
  auto next = flat.begin();
  for (int64_t family = 0; family < tensor.shape[0]; ++family) {
    TableSet& tables = tables_.emplace_back();
    for (int b = 1; b <= kMaxDepth; ++b) {
      tables[b].assign(next, next + (1 << b));
      next += 1 << b;
    }
  }
  return absl::OkStatus();
}

Status PackedWeights::Verify(const std::string& name) const {
  const auto expected = checkpoint_->metadata().find(ChecksumKey(name));
  if (checkpoint_->Find(name) == nullptr || expected == checkpoint_->metadata().end()) {
    return absl::OkStatus();
  }
  CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint_->Get(name));
  if (ChecksumValue({tensor.data, static_cast<size_t>(tensor.bytes())}) == expected->second) {
    return absl::OkStatus();
  }
  return absl::DataLossError(absl::StrCat(checkpoint_->folder(), ": ", name,
                                          " does not match its checksum; get the file again"));
}

Status PackedWeights::ReadEntropy() {
  const std::string name(kEntropyName);
  CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint_->Get(name));
  StatusOr<EntropyTables> tables = EntropyTables::Parse(BytesOf(tensor));
  if (!tables.ok()) return About(*checkpoint_, name, tables.status());
  entropy_ = *std::move(tables);
  return absl::OkStatus();
}

Status PackedWeights::Expect(const ArchSpec& spec) {
  for (int64_t block = 0; block < spec.layers; ++block) {
    for (const LinearId id : spec.linears()) {
      const std::string linear = spec.LinearName(block, id);
      const Shape expected{spec.rows(id), spec.columns(id)};
      shapes_.insert_or_assign(linear, expected);
      const std::string first = CodedName(linear);
      for (std::string_view suffix : kFormSuffixes) {
        const std::string name = linear + std::string(suffix);
        if (checkpoint_->Find(name) == nullptr) continue;
        if (name != first) {
          return absl::DataLossError(absl::StrCat(checkpoint_->folder(), ": there are both ", first,
                                                  " and ", name, "; get the file again"));
        }
        if (suffix == kScaledSuffix) continue;
        CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint_->Get(name));
        if (StoredShape(tensor) == expected) continue;
        return absl::DataLossError(absl::StrCat(
            checkpoint_->folder(), ": ", name, " is a matrix ", StoredShape(tensor).ToString(),
            ", config.json asks for ", expected.ToString(), "; get the file again"));
      }
    }
  }
  return absl::OkStatus();
}

std::optional<TensorInfo> PackedWeights::Describe(const std::string& name) const {
  const TensorInfo* found = checkpoint_->Find(name);
  return found != nullptr ? std::optional(*found) : std::nullopt;
}

StatusOr<HostTensor> PackedWeights::Dense(const std::string& name) const {
  return checkpoint_->Get(name);
}

std::string PackedWeights::CodedName(const std::string& linear) const {
  for (std::string_view suffix : kFormSuffixes) {
    std::string name = linear + std::string(suffix);
    if (checkpoint_->Find(name) != nullptr) return name;
  }
  return "";
}

bool PackedWeights::IsPacked(const std::string& linear) const { return !CodedName(linear).empty(); }

StatusOr<LinearCodes> PackedWeights::Parse(const HostTensor& tensor, LinearForm form,
                                           const Shape& shape) const {
  const std::span<const uint8_t> bytes = BytesOf(tensor);
  switch (form) {
    case LinearForm::kPacked:
      return ParsePackedMatrix(bytes, tables_);
    case LinearForm::kScaled:
      return ParseScaledMatrix(bytes, *entropy_, shape[0], shape[1], pool_.get());
    case LinearForm::kAffine:
      break;
  }
  return ParseAffineMatrix(bytes);
}

StatusOr<std::shared_ptr<const LinearCodes>> PackedWeights::Packed(
    const std::string& linear) const {
  const std::string name = CodedName(linear);
  if (name.empty()) return std::shared_ptr<const LinearCodes>();
  const auto shape = shapes_.find(linear);
  if (shape == shapes_.end()) {
    return About(*checkpoint_, name, absl::InternalError("it is no linear of the model"));
  }
  CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint_->Get(name));
  StatusOr<LinearCodes> codes = Parse(tensor, *FormOf(name), shape->second);
  if (!codes.ok()) return About(*checkpoint_, name, codes.status());
  checkpoint_->Release(name);  // until it is parsed again
  return std::make_shared<const LinearCodes>(*std::move(codes));
}

void PackedWeights::Release(const std::string& name) const { checkpoint_->Release(name); }

}  // namespace cvxq
