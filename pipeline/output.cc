#include "pipeline/output.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <vector>

#include "base/interrupt.h"
#include "storage/errors.h"
#include "storage/files.h"
#include "storage/folder.h"
#include "storage/object_map.h"
#include "storage/object_store.h"
#include "storage/output_manifest.h"

namespace cvxq {
namespace {

constexpr size_t kPieceBytes = size_t{8} << 20;

class FolderOutput : public Output {
 public:
  explicit FolderOutput(std::unique_ptr<OutputFolder> folder) : folder_(std::move(folder)) {}

  const std::string& folder() const override { return folder_->path(); }
  Status Upload(const nlohmann::json&) override { return absl::OkStatus(); }
  Status Publish() override { return folder_->Publish(); }

 private:
  const std::unique_ptr<OutputFolder> folder_;
};

class BucketOutput : public Output {
 public:
  BucketOutput(std::unique_ptr<ObjectStore> store, std::string folder)
      : store_(std::move(store)), folder_(std::move(folder)) {}

  static StatusOr<std::unique_ptr<Output>> Create(const std::string& address,
                                                  const std::string& scratch) {
    CVXQ_ASSIGN_OR_RETURN(std::unique_ptr<ObjectStore> store, OpenObjectStore(address));
    const StatusOr<ObjectInfo> manifest = store->Head(kManifestName);
    if (manifest.ok()) return Exists(*store);
    if (!absl::IsNotFound(manifest.status())) return manifest.status();
    CVXQ_RETURN_IF_ERROR(store->CheckConditionalWrites("check"));
    return ToStore(std::move(store), scratch);
  }
  ~BucketOutput() override {
    std::error_code ignored;  // nobody is left to be told
    std::filesystem::remove_all(folder_, ignored);
  }

  const std::string& folder() const override { return folder_; }

  Status Upload(const nlohmann::json& facts) override {
    OutputManifest manifest;
    manifest.facts = facts;
    std::error_code error;
    std::filesystem::directory_iterator it(folder_, error);
    for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
      const std::string name = it->path().filename().string();
      CVXQ_ASSIGN_OR_RETURN(std::string sha256, FileSha256(it->path().string()));
      manifest.files[name] = {static_cast<int64_t>(it->file_size(error)), std::move(sha256)};
    }
    if (error) return ErrnoStatus(error.value(), "cannot list", folder_);
    for (const auto& [name, file] : manifest.files) {
      CVXQ_RETURN_IF_ERROR(UploadFile(name, absl::StrCat(manifest.Folder(), "/", name), file.size));
    }
    manifest_ = manifest.Serialize();
    return absl::OkStatus();
  }

  Status Publish() override {
    const Status written = store_->WriteIfAbsent(kManifestName, manifest_);
    return absl::IsAlreadyExists(written) ? Exists(*store_) : written;
  }

 private:
  static Status Exists(const ObjectStore& store) {
    return absl::AlreadyExistsError(absl::StrCat(
        store.address(), " exists; choose another name (an output in a bucket is never replaced)"));
  }

  Status UploadFile(const std::string& name, const std::string& key, int64_t size) {
    const std::string path = absl::StrCat(folder_, "/", name);
    CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ObjectWriter> writer, store_->Create(key, size));
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return ErrnoStatus(errno, "cannot read", path);
    std::vector<std::byte> piece(kPieceBytes);
    Status status;
    while (status.ok()) {
      const ssize_t n = read(fd, piece.data(), piece.size());
      if (n == 0) break;
      if (n < 0 && errno == EINTR) continue;
      status = n < 0 ? ErrnoStatus(errno, "cannot read", path)
                     : writer->Append(std::span(piece.data(), static_cast<size_t>(n)));
      status.Update(CheckInterrupted());
    }
    close(fd);
    CVXQ_RETURN_IF_ERROR(status);
    return writer->Commit();
  }

  const std::unique_ptr<ObjectStore> store_;
  const std::string folder_;
  std::string manifest_;
};

StatusOr<OutputState> FindInBucket(const std::string& address,
                                   const std::map<std::string, std::string>& sha256) {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ObjectStore> store, OpenObjectStore(address));
  const StatusOr<std::string> text = store->ReadAll(kManifestName, kLargestManifest);
  if (absl::IsNotFound(text.status())) return OutputState::kNone;
  if (absl::IsResourceExhausted(text.status())) return OutputState::kOther;
  CVXQ_RETURN_IF_ERROR(text.status());
  const StatusOr<OutputManifest> manifest = OutputManifest::Parse(*text, address);
  if (!manifest.ok()) return OutputState::kOther;
  std::map<std::string, std::string> found;
  for (const auto& [name, file] : manifest->files) found[name] = file.sha256;
  return found == sha256 ? OutputState::kSame : OutputState::kOther;
}

}  // namespace

StatusOr<OutputState> FindOutput(const std::string& address,
                                 const std::map<std::string, std::string>& sha256) {
  if (IsBucketAddress(address)) return FindInBucket(address, sha256);
  std::error_code error;
  if (std::filesystem::symlink_status(address, error).type() ==
      std::filesystem::file_type::not_found) {
    return OutputState::kNone;
  }
  for (const auto& [name, expected] : sha256) {
    const StatusOr<std::string> found = FileSha256(absl::StrCat(address, "/", name));
    if (!found.ok() || *found != expected) return OutputState::kOther;
  }
  return OutputState::kSame;
}

StatusOr<std::unique_ptr<Output>> Output::ToStore(std::unique_ptr<ObjectStore> store,
                                                  const std::string& scratch) {
  std::string folder =
      absl::StrCat(scratch.empty() ? ScratchFolder() : scratch, "/cvxq-output-XXXXXX");
  if (mkdtemp(folder.data()) == nullptr) {
    return ErrnoStatus(errno, "cannot make the local folder", folder);
  }
  return std::make_unique<BucketOutput>(std::move(store), std::move(folder));
}

StatusOr<std::unique_ptr<Output>> Output::Create(const std::string& address, bool overwrite,
                                                 const std::string& scratch) {
  if (IsBucketAddress(address)) {
    if (overwrite) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot write ", address,
                       ": --overwrite is for folders of this machine alone; choose "
                       "another name or remove what lies there yourself"));
    }
    return BucketOutput::Create(address, scratch);
  }
  const std::string path = address.starts_with("file://") ? address.substr(7) : address;
  CVXQ_ASSIGN_OR_RETURN(std::unique_ptr<OutputFolder> folder,
                        OutputFolder::Create(path, overwrite));
  return std::make_unique<FolderOutput>(std::move(folder));
}

}  // namespace cvxq
