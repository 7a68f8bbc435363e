#include "formats/safetensors_folder.h"

#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "storage/companion_files.h"
#include "storage/files.h"

namespace cvxq {
namespace {

const std::map<std::string, std::string> kMetadata = {{"format", "pt"}};

// At least what a tensor adds to its file: data, and its entry in the header.
int64_t BytesAtMost(const std::vector<TensorEntry>& tensors) {
  constexpr int64_t kEntry = 160;  // names of fields, numbers, punctuation
  int64_t bytes = 0;
  for (const TensorEntry& tensor : tensors) {
    bytes += tensor.shape.elements() * ByteSize(tensor.dtype) + kEntry +
             static_cast<int64_t>(tensor.name.size());
  }
  return bytes;
}

}  // namespace

void SafetensorsFolder::Add(std::vector<TensorEntry> tensors,
                            std::function<Status(const Append&)> write) {
  items_.push_back({std::move(tensors), std::move(write)});
}

void SafetensorsFolder::Copy(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo& tensor = *checkpoint.Find(name);
  Add({{name, tensor.dtype, tensor.shape}}, [&checkpoint, name](const Append& append) -> Status {
    CVXQ_ASSIGN_OR_RETURN(const HostTensor data, checkpoint.Get(name));
    CVXQ_RETURN_IF_ERROR(append({data.data, static_cast<size_t>(data.bytes())}));
    checkpoint.Release(name);
    return absl::OkStatus();
  });
}

void SafetensorsFolder::AddCompanions(const Checkpoint& checkpoint,
                                      std::map<std::string, int64_t> files) {
  companions_of_ = &checkpoint;
  companions_ = std::move(files);
}

std::vector<SafetensorsFolder::File> SafetensorsFolder::Files() const {
  constexpr int64_t kRest = 256;  // of a header
  std::vector<File> files(1);
  int64_t bytes = kRest;
  for (size_t i = 0; i < items_.size(); ++i) {
    const int64_t more = BytesAtMost(items_[i].tensors);
    if (split_bytes_ > 0 && bytes + more > split_bytes_ && files.back().end > files.back().begin) {
      files.push_back({.begin = i, .end = i, .name = "", .entries = {}});
      bytes = kRest;
    }
    File& file = files.back();
    file.end = i + 1;
    file.entries.insert(file.entries.end(), items_[i].tensors.begin(), items_[i].tensors.end());
    bytes += more;
  }
  for (size_t i = 0; i < files.size(); ++i) {
    files[i].name = files.size() == 1
                        ? "model.safetensors"
                        : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, files.size());
  }
  return files;
}

std::string SafetensorsFolder::Index(const std::vector<File>& files) const {
  if (files.size() == 1) return "";
  nlohmann::json map = nlohmann::json::object();
  int64_t total = 0;
  for (const File& file : files) {
    for (const TensorEntry& entry : file.entries) {
      map[entry.name] = file.name;
      total += entry.shape.elements() * ByteSize(entry.dtype);
    }
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  return index.dump(2) + "\n";
}

int64_t SafetensorsFolder::TotalBytes() const {
  const std::vector<File> files = Files();
  auto bytes = static_cast<int64_t>(Index(files).size());
  for (const File& file : files) bytes += SafetensorsFileSize(file.entries, kMetadata);
  for (const auto& [name, text] : texts_) bytes += static_cast<int64_t>(text.size());
  for (const auto& [name, size] : companions_) bytes += size;
  return bytes;
}

Status SafetensorsFolder::Write(const std::string& folder) const {
  const std::vector<File> files = Files();
  for (const File& file : files) {
    CVXQ_ASSIGN_OR_RETURN(
        const std::unique_ptr<SafetensorsWriter> writer,
        SafetensorsWriter::Create(folder + "/" + file.name, file.entries, kMetadata));
    const Append append = [&](std::span<const std::byte> bytes) { return writer->Append(bytes); };
    for (size_t i = file.begin; i < file.end; ++i) {
      CVXQ_RETURN_IF_ERROR(items_[i].write(append));
    }
    CVXQ_RETURN_IF_ERROR(writer->Finish());
  }
  if (const std::string index = Index(files); !index.empty()) {
    CVXQ_RETURN_IF_ERROR(WriteFile(folder + "/model.safetensors.index.json", index));
  }
  for (const auto& [name, text] : texts_) {
    CVXQ_RETURN_IF_ERROR(WriteFile(folder + "/" + name, text));
  }
  if (companions_of_ == nullptr) return absl::OkStatus();
  return CopyFiles(companions_of_->files(), companions_, folder);
}

}  // namespace cvxq
