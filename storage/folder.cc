#include "storage/folder.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "storage/errors.h"
#include "storage/files.h"
#include "storage/object_map.h"
#include "storage/object_store.h"
#include "storage/output_manifest.h"
#include "storage/s3/sigv4.h"

namespace cvxq {
namespace {

constexpr int64_t kLargestWholeObject = int64_t{256} << 20;

class LocalFolder : public Folder {
 public:
  explicit LocalFolder(std::string path) : path_(std::move(path)) {}

  const std::string& address() const override { return path_; }
  bool Has(const std::string& name) const override {
    struct stat info;
    return stat(Path(name).c_str(), &info) == 0;
  }
  StatusOr<std::vector<File>> List() const override {
    std::vector<File> files;
    std::error_code error;
    std::filesystem::directory_iterator it(path_, error);
    for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
      struct stat info;
      if (stat(it->path().c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
      files.push_back({.name = it->path().filename().string(), .size = info.st_size});
    }
    if (error) return ErrnoStatus(error.value(), "cannot list", path_);
    std::sort(files.begin(), files.end(),
              [](const File& a, const File& b) { return a.name < b.name; });
    return files;
  }
  StatusOr<std::string> Read(const std::string& name) const override {
    return ReadFile(Path(name));
  }
  StatusOr<std::shared_ptr<const SafetensorsFile>> OpenTensors(
      const std::string& name) const override {
    return SafetensorsFile::Open(Path(name));
  }

 private:
  std::string Path(const std::string& name) const { return path_ + "/" + name; }
  const std::string path_;
};

class BucketFolder : public Folder {
 public:
  static StatusOr<std::shared_ptr<const Folder>> Open(const std::string& address,
                                                      const std::string& scratch) {
    std::shared_ptr<BucketFolder> folder(new BucketFolder(scratch));
    CVXQ_ASSIGN_OR_RETURN(folder->store_, OpenObjectStore(address));
    folder->address_ = folder->store_->address();
    CVXQ_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> objects, folder->store_->List(""));
    std::map<std::string, ObjectInfo> by_key;
    for (const ObjectInfo& object : objects) by_key.emplace(object.key, object);
    const auto manifest = by_key.find(kManifestName);
    if (manifest != by_key.end()) {
      CVXQ_RETURN_IF_ERROR(folder->ReadManifest(manifest->second, by_key));
      return folder;
    }
    for (const ObjectInfo& object : objects) {
      if (object.key.find('/') == std::string::npos) folder->files_[object.key] = {object, ""};
    }
    if (folder->files_.empty()) {
      return absl::NotFoundError(absl::StrCat(
          "the checkpoint folder ", folder->address_,
          " does not exist: no object lies there; check the address",
          objects.empty() ? "" : " (an output there has no manifest.json: it is not complete)"));
    }
    return folder;
  }

  const std::string& address() const override { return address_; }
  bool Has(const std::string& name) const override { return files_.contains(name); }
  StatusOr<std::vector<File>> List() const override {
    std::vector<File> files;
    for (const auto& [name, entry] : files_) {
      files.push_back({.name = name, .size = entry.object.size, .version = entry.object.etag});
    }
    return files;
  }
  StatusOr<std::string> Read(const std::string& name) const override {
    CVXQ_ASSIGN_OR_RETURN(const Entry* entry, Find(name));
    const ObjectInfo& object = entry->object;
    if (object.size > kLargestWholeObject) {
      return absl::ResourceExhaustedError(absl::StrCat("cannot read ", address_, "/", object.key,
                                                       ": it has ", object.size,
                                                       " bytes, more than are read whole"));
    }
    std::string bytes(object.size, '\0');
    CVXQ_RETURN_IF_ERROR(
        store_->Read(object.key, object.etag, 0, std::as_writable_bytes(std::span(bytes))));
    if (!entry->sha256.empty() && Sha256Hex(bytes) != entry->sha256) {
      return absl::DataLossError(absl::StrCat(address_, "/", object.key,
                                              " does not match its checksum in the manifest; "
                                              "write the output again"));
    }
    return bytes;
  }
  StatusOr<std::shared_ptr<const SafetensorsFile>> OpenTensors(
      const std::string& name) const override {
    CVXQ_ASSIGN_OR_RETURN(const Entry* entry, Find(name));
    CVXQ_ASSIGN_OR_RETURN(auto object, ObjectMap::Open(store_, entry->object, scratch_));
    return SafetensorsFile::Open(std::move(object));
  }

 private:
  struct Entry {
    ObjectInfo object;
    std::string sha256;  // empty where none is known
  };

  explicit BucketFolder(const std::string& scratch)
      : scratch_(scratch.empty() ? ScratchFolder() : scratch) {}

  StatusOr<const Entry*> Find(const std::string& name) const {
    const auto found = files_.find(name);
    if (found != files_.end()) return &found->second;
    return absl::NotFoundError(
        absl::StrCat("cannot read ", address_, "/", name, ": no such object"));
  }

  Status ReadManifest(const ObjectInfo& object, const std::map<std::string, ObjectInfo>& by_key) {
    const std::string where = absl::StrCat(address_, "/", kManifestName);
    CVXQ_ASSIGN_OR_RETURN(const std::string text, store_->ReadAll(object.key, kLargestManifest));
    CVXQ_ASSIGN_OR_RETURN(const OutputManifest manifest, OutputManifest::Parse(text, where));
    for (const auto& [name, file] : manifest.files) {
      const std::string key = absl::StrCat(manifest.Folder(), "/", name);
      const auto found = by_key.find(key);
      if (found == by_key.end() || found->second.size != file.size) {
        return absl::DataLossError(
            absl::StrCat(where, " and what lies there disagree: ", key,
                         found == by_key.end() ? " is missing" : " has another size",
                         "; write the output again"));
      }
      files_[name] = {found->second, file.sha256};
    }
    return absl::OkStatus();
  }

  const std::string scratch_;
  std::string address_;
  std::shared_ptr<ObjectStore> store_;
  std::map<std::string, Entry> files_;
};

}  // namespace

StatusOr<std::string> Folder::Revision() const {
  if (!IsBucketAddress(address())) return std::string();
  CVXQ_ASSIGN_OR_RETURN(const std::vector<File> files, List());
  std::string text;
  for (const File& file : files) {
    absl::StrAppend(&text, file.name, "\n", file.size, "\n", file.version, "\n");
  }
  return Sha256Hex(text);
}

bool IsBucketAddress(std::string_view address) { return address.starts_with("s3://"); }

StatusOr<std::shared_ptr<const Folder>> Folder::Open(const std::string& address,
                                                     const std::string& scratch) {
  if (IsBucketAddress(address)) return BucketFolder::Open(address, scratch);
  const std::string path = address.starts_with("file://") ? address.substr(7) : address;
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    return absl::NotFoundError(
        absl::StrCat("the checkpoint folder ", path, " does not exist; check the path"));
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is no folder; name the folder that holds config.json"));
  }
  return std::make_shared<LocalFolder>(path);
}

}  // namespace cvxq
