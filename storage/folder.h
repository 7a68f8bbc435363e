// A flat folder of files to read: one of this machine, or the objects below a prefix in a bucket.
//
//   CVXQ_ASSIGN_OR_RETURN(auto folder, Folder::Open("s3://bucket/models/llama"));
//   CVXQ_ASSIGN_OR_RETURN(std::string config, folder->Read("config.json"));
//   CVXQ_ASSIGN_OR_RETURN(auto tensors, folder->OpenTensors("model.safetensors"));
//
// Where OUT/manifest.json is an output's manifest (output_manifest.h), the folder is that output's,
// with its sizes checked, and its checksums for files that are read whole. Objects stay those that
// were there at Open: one that changes meanwhile is kFailedPrecondition.
#ifndef CVXQ_STORAGE_FOLDER_H_
#define CVXQ_STORAGE_FOLDER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "storage/safetensors.h"

namespace cvxq {

// Thread-safe.
class Folder {
 public:
  struct File {
    std::string name;
    int64_t size = 0;
    std::string version;  // of an object: its ETag
  };

  // A path, file:///PATH or s3://BUCKET/PREFIX. `scratch` takes the local copies of what is read
  // from a bucket (empty: ScratchFolder()). kNotFound where there is none, kFailedPrecondition for
  // what is no folder, errors of the store.
  static StatusOr<std::shared_ptr<const Folder>> Open(const std::string& address,
                                                      const std::string& scratch = "");
  virtual ~Folder() = default;

  // For messages and, with "/", before names of files in them.
  virtual const std::string& address() const = 0;
  virtual bool Has(const std::string& name) const = 0;
  // Files alone, sorted by name.
  virtual StatusOr<std::vector<File>> List() const = 0;
  // What pins the contents of a folder in a bucket: 64 hex digits that differ where names, sizes or
  // ETags do. Empty for a folder of this machine.
  StatusOr<std::string> Revision() const;
  // A whole file. kNotFound, kResourceExhausted for one that is too large, kDataLoss where it is
  // not what the manifest says.
  virtual StatusOr<std::string> Read(const std::string& name) const = 0;
  virtual StatusOr<std::shared_ptr<const SafetensorsFile>> OpenTensors(
      const std::string& name) const = 0;
};

// Whether an address is one of a bucket.
bool IsBucketAddress(std::string_view address);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_FOLDER_H_
