#include "storage/checkpoint.h"

#include <set>
#include <string_view>
#include <utility>

#include "storage/errors.h"
#include "storage/json.h"
#include "storage/output_manifest.h"

namespace cvxq {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

StatusOr<nlohmann::json> ReadJson(const Folder& folder, const std::string& name) {
  CVXQ_ASSIGN_OR_RETURN(const std::string text, folder.Read(name));
  return ParseJson(text, absl::StrCat(folder.address(), "/", name));
}

// The index as {tensor: shard}. Its "metadata" is not read: the sizes written there are often
// wrong.
StatusOr<std::map<std::string, std::string>> ReadIndex(const Folder& folder) {
  const std::string path = folder.address() + "/" + kIndexFile;
  const auto broken = [&](const std::string& what) {
    return absl::DataLossError(
        absl::StrCat("cannot use ", path, ": ", what, "; mend it or download it again"));
  };
  CVXQ_ASSIGN_OR_RETURN(const nlohmann::json index, ReadJson(folder, kIndexFile));
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return broken("it has no weight_map of tensor names to files");
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    if (!shard.is_string())
      return broken(absl::StrCat("the file of ", Quoted(tensor), " is no string"));
    const std::string& name = shard.get_ref<const std::string&>();
    if (!IsPlainName(name)) {
      return broken(absl::StrCat(Quoted(name), " is no plain file name inside the folder"));
    }
    shards.emplace(tensor, name);
  }
  if (shards.empty()) return broken("its weight_map is empty");
  return shards;
}

bool Holds(const SafetensorsFile& file, const std::string& tensor) {
  return file.Find(tensor) != nullptr || file.unsupported().contains(tensor);
}

}  // namespace

StatusOr<std::shared_ptr<const Checkpoint>> Checkpoint::Open(const std::string& address) {
  CVXQ_ASSIGN_OR_RETURN(std::shared_ptr<const Folder> folder, Folder::Open(address));
  return Open(std::move(folder));
}

StatusOr<std::shared_ptr<const Checkpoint>> Checkpoint::Open(std::shared_ptr<const Folder> folder) {
  std::shared_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->folder_ = folder;
  const std::string config_path = folder->address() + "/config.json";
  if (!folder->Has("config.json")) {
    return absl::NotFoundError(absl::StrCat(
        config_path, " is missing; name the folder of a checkpoint in the Hugging Face layout"));
  }
  CVXQ_ASSIGN_OR_RETURN(checkpoint->config_, ReadJson(*folder, "config.json"));
  if (!checkpoint->config_.is_object()) {
    return absl::DataLossError(
        absl::StrCat("cannot use ", config_path, ": it is no JSON object; download it again"));
  }
  // Like other readers of this layout, a whole file goes before an index.
  if (folder->Has(kSingleFile)) {
    CVXQ_ASSIGN_OR_RETURN(auto file, folder->OpenTensors(kSingleFile));
    checkpoint->Add(std::move(file));
    return checkpoint;
  }
  if (!folder->Has(kIndexFile)) {
    return absl::NotFoundError(
        absl::StrCat(folder->address(), " has neither ", kSingleFile, " nor ", kIndexFile,
                     "; download the safetensors files, or convert the checkpoint to safetensors"));
  }
  CVXQ_RETURN_IF_ERROR(checkpoint->OpenShards());
  return checkpoint;
}

Status Checkpoint::OpenShards() {
  const std::string index_path = absl::StrCat(folder(), "/", kIndexFile);
  CVXQ_ASSIGN_OR_RETURN(const auto shards, ReadIndex(*folder_));
  std::map<std::string, std::shared_ptr<const SafetensorsFile>> files;
  for (const auto& [tensor, shard] : shards) files[shard];
  for (auto& [shard, file] : files) {
    if (!folder_->Has(shard)) {
      return absl::NotFoundError(absl::StrCat("the shard ", folder(), "/", shard,
                                              " is missing; download it (", index_path,
                                              " names it)"));
    }
    CVXQ_ASSIGN_OR_RETURN(file, folder_->OpenTensors(shard));
  }
  const auto disagree = [&](const std::string& tensor, const char* what, const std::string& path) {
    return absl::DataLossError(absl::StrCat(index_path, " and its shards disagree: tensor ",
                                            Quoted(tensor), " ", what, " ", path,
                                            "; download the checkpoint again"));
  };
  for (const auto& [tensor, shard] : shards) {
    if (!Holds(*files[shard], tensor)) return disagree(tensor, "is not in", files[shard]->path());
  }
  for (const auto& [shard, file] : files) {
    const auto listed = [&, &shard = shard](const std::string& tensor) {
      const auto it = shards.find(tensor);
      return it != shards.end() && it->second == shard;
    };
    for (const auto& [tensor, unused] : file->tensors()) {
      if (!listed(tensor)) return disagree(tensor, "is not listed for", file->path());
    }
    for (const auto& [tensor, unused] : file->unsupported()) {
      if (!listed(tensor)) return disagree(tensor, "is not listed for", file->path());
    }
    Add(file);
  }
  return absl::OkStatus();
}

void Checkpoint::Add(std::shared_ptr<const SafetensorsFile> file) {
  for (const auto& [name, tensor] : file->tensors()) location_[name] = file.get();
  unsupported_.insert(file->unsupported().begin(), file->unsupported().end());
  metadata_.insert(file->metadata().begin(), file->metadata().end());
  total_bytes_ += file->data_bytes();
  files_.push_back(std::move(file));
}

const TensorInfo* Checkpoint::Find(const std::string& name) const {
  const auto it = location_.find(name);
  return it == location_.end() ? nullptr : it->second->Find(name);
}

StatusOr<HostTensor> Checkpoint::Get(const std::string& name) const {
  if (const auto it = location_.find(name); it != location_.end()) return it->second->Load(name);
  if (const auto it = unsupported_.find(name); it != unsupported_.end()) {
    return absl::UnimplementedError(absl::StrCat("tensor ", Quoted(name), " of ", folder(),
                                                 " has the type ", it->second,
                                                 "; use a checkpoint in F32, F16 or BF16"));
  }
  return absl::NotFoundError(
      absl::StrCat("tensor ", Quoted(name), " is missing in ", folder(),
                   "; check that the checkpoint is complete and fits its config.json"));
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : location_) names.push_back(name);
  return names;
}

void Checkpoint::Release(const std::string& name) const {
  const auto it = location_.find(name);
  if (it != location_.end()) it->second->Release(name);
}

}  // namespace cvxq
