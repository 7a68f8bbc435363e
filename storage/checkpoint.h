// A Hugging Face checkpoint, a folder here or in a bucket: config.json and one or many safetensors
// files.
//
//   folder/config.json
//   folder/model.safetensors                          or
//   folder/model.safetensors.index.json               {"weight_map": {tensor: shard file}}
//   folder/model-00001-of-00002.safetensors ...
#ifndef CVXQ_STORAGE_CHECKPOINT_H_
#define CVXQ_STORAGE_CHECKPOINT_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "nlohmann/json.hpp"
#include "storage/folder.h"
#include "storage/safetensors.h"
#include "tensor/tensor.h"

namespace cvxq {

class Checkpoint {
 public:
  // Opens every shard and checks that the index and the shards agree. Errors name the file:
  // kNotFound a missing one, kDataLoss a broken one or an index that leads out of the folder.
  static StatusOr<std::shared_ptr<const Checkpoint>> Open(std::shared_ptr<const Folder> folder);
  // Of the folder at an address (folder.h).
  static StatusOr<std::shared_ptr<const Checkpoint>> Open(const std::string& address);

  const std::string& folder() const { return folder_->address(); }
  const Folder& files() const { return *folder_; }
  const nlohmann::json& config() const { return config_; }
  // Type and shape; nullptr if absent.
  const TensorInfo* Find(const std::string& name) const;
  // The tensor with its data, which stays while the checkpoint lives and, for one in a bucket, only
  // while the result's `hold` does: see SafetensorsFile::Load. kNotFound with the folder's name if
  // absent, kUnimplemented if its type has no place in DType.
  StatusOr<HostTensor> Get(const std::string& name) const;
  std::vector<std::string> names() const;  // sorted, those that Find finds
  // The others: see SafetensorsFile::unsupported.
  const std::map<std::string, std::string>& unsupported() const { return unsupported_; }
  // Metadata of the files joined (first file wins).
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  void Release(const std::string& name) const;          // see SafetensorsFile::Release
  int64_t total_bytes() const { return total_bytes_; }  // of all tensors

 private:
  Checkpoint() = default;
  Status OpenShards();
  void Add(std::shared_ptr<const SafetensorsFile> file);

  std::shared_ptr<const Folder> folder_;
  nlohmann::json config_;
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> location_;
  std::map<std::string, std::string> unsupported_, metadata_;
  int64_t total_bytes_ = 0;
};

}  // namespace cvxq

#endif  // CVXQ_STORAGE_CHECKPOINT_H_
