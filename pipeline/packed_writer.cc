#include "pipeline/packed_writer.h"

#include <set>

#include "pipeline/model_files.h"
#include "storage/companion_files.h"
#include "storage/files.h"

namespace cvxq {
namespace {

constexpr std::string_view kWeightsFile = "model.safetensors";
std::span<const std::byte> Bytes(const auto& values) { return std::as_bytes(std::span(values)); }

std::vector<uint16_t> Halves(const std::vector<float>& values) {
  std::vector<uint16_t> halves(values.size());
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = FloatToF16(values[i]);
  return halves;
}

}  // namespace

SharedTensor TablesTensor(const std::vector<TableSet>& families) {
  const std::vector<float> tables = FlattenTables(families);
  SharedTensor shared{{std::string(kTablesName),
                       DType::kF32,
                       {static_cast<int64_t>(families.size()),
                        static_cast<int64_t>(tables.size() / families.size())}},
                      {}};
  const auto* bytes = reinterpret_cast<const uint8_t*>(tables.data());
  shared.bytes.assign(bytes, bytes + tables.size() * sizeof(float));
  return shared;
}

StatusOr<std::unique_ptr<PackedWriter>> PackedWriter::Make(const Checkpoint& checkpoint,
                                                           const nlohmann::json& config,
                                                           const std::vector<LinearPlan>& plans) {
  std::unique_ptr<PackedWriter> writer(new PackedWriter(checkpoint, config, plans));
  std::set<std::string> replaced;
  for (const LinearPlan& plan : plans) replaced.insert(plan.name + ".weight");
  for (const std::string& name : checkpoint.names()) {
    if (replaced.contains(name)) continue;
    writer->dense_.push_back(name);
    CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint.Get(name));
    writer->checksums_[name] = ChecksumValue({tensor.data, static_cast<size_t>(tensor.bytes())});
    checkpoint.Release(name);
  }
  CVXQ_ASSIGN_OR_RETURN(writer->other_files_, CompanionFiles(checkpoint.files()));
  return writer;
}

void PackedWriter::Replace(const TensorEntry& entry, const std::vector<float>& values) {
  SharedTensor& tensor = replaced_[entry.name];
  tensor.entry = entry;
  tensor.bytes.clear();
  for (const float value : values) {
    const uint16_t half = entry.dtype == DType::kF16 ? FloatToF16(value) : FloatToBF16(value);
    const auto bytes = entry.dtype == DType::kF32 ? std::as_bytes(std::span(&value, 1))
                                                  : std::as_bytes(std::span(&half, 1));
    for (const std::byte byte : bytes) tensor.bytes.push_back(static_cast<uint8_t>(byte));
  }
}

std::vector<TensorEntry> PackedWriter::Entries(bool with_packed) const {
  std::set<std::string> new_bias;
  std::vector<TensorEntry> entries;
  if (with_packed) {
    for (const SharedTensor& shared : shared_) entries.push_back(shared.entry);
    for (const LinearPlan& plan : plans_) {
      entries.push_back({plan.name + std::string(plan.suffix), DType::kU8, {plan.packed_bytes}});
      if (plan.bias.empty()) continue;
      entries.push_back({plan.name + ".bias", DType::kF16, {plan.rows}});
      new_bias.insert(plan.name + ".bias");
    }
  }
  for (const std::string& name : dense_) {
    if (new_bias.contains(name)) continue;
    if (const auto found = replaced_.find(name); with_packed && found != replaced_.end()) {
      entries.push_back(found->second.entry);
      continue;
    }
    const TensorInfo* tensor = checkpoint_.Find(name);
    entries.push_back({name, tensor->dtype, tensor->shape});
  }
  return entries;
}

// Checksums of all tensors that are not matrices with their own.
std::map<std::string, std::string> PackedWriter::Metadata(bool with_packed) const {
  std::map<std::string, std::string> metadata{{"format", "pt"}};
  for (const auto& [name, checksum] : checksums_) metadata[ChecksumKey(name)] = checksum;
  if (!with_packed) return metadata;
  for (const SharedTensor& shared : shared_) {
    metadata[ChecksumKey(shared.entry.name)] = ChecksumValue(Bytes(shared.bytes));
  }
  for (const auto& [name, tensor] : replaced_) {
    metadata[ChecksumKey(name)] = ChecksumValue(Bytes(tensor.bytes));
  }
  for (const LinearPlan& plan : plans_) {
    if (!plan.bias.empty()) {
      metadata[ChecksumKey(plan.name + ".bias")] = ChecksumValue(Bytes(Halves(plan.bias)));
    }
  }
  return metadata;
}

int64_t PackedWriter::FileBytes(bool with_packed) const {
  return SafetensorsFileSize(Entries(with_packed), Metadata(with_packed));
}

int64_t PackedWriter::OutputBytes() const {
  int64_t bytes = FileBytes(true) + static_cast<int64_t>(config_.size());
  for (const auto& [name, size] : other_files_) bytes += size;
  return bytes;
}

int64_t PackedWriter::PackedBytes() const { return FileBytes(true) - FileBytes(false); }

Status PackedWriter::Write(const std::string& folder) const {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<SafetensorsWriter> writer,
                        SafetensorsWriter::Create(folder + "/" + std::string(kWeightsFile),
                                                  Entries(true), Metadata(true)));
  std::set<std::string> new_bias;
  for (const SharedTensor& shared : shared_) {
    CVXQ_RETURN_IF_ERROR(writer->Append(Bytes(shared.bytes)));
  }
  for (const LinearPlan& plan : plans_) {
    CVXQ_RETURN_IF_ERROR(writer->Append(Bytes(plan.packed)));
    if (plan.bias.empty()) continue;
    CVXQ_RETURN_IF_ERROR(writer->Append(Bytes(Halves(plan.bias))));
    new_bias.insert(plan.name + ".bias");
  }
  for (const std::string& name : dense_) {
    if (new_bias.contains(name)) continue;
    if (const auto found = replaced_.find(name); found != replaced_.end()) {
      CVXQ_RETURN_IF_ERROR(writer->Append(Bytes(found->second.bytes)));
      continue;
    }
    CVXQ_ASSIGN_OR_RETURN(const HostTensor tensor, checkpoint_.Get(name));
    CVXQ_RETURN_IF_ERROR(writer->Append({tensor.data, static_cast<size_t>(tensor.bytes())}));
    checkpoint_.Release(name);
  }
  CVXQ_RETURN_IF_ERROR(writer->Finish());
  CVXQ_RETURN_IF_ERROR(WriteFile(folder + "/config.json", config_));
  return CopyFiles(checkpoint_.files(), other_files_, folder);
}

}  // namespace cvxq
