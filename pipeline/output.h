// Where a quantised model goes: a folder of this machine, or a prefix in a bucket. Either way the
// files are first written into a local folder, and the output appears whole or not at all.
//
//   CVXQ_ASSIGN_OR_RETURN(auto output, Output::Create("s3://bucket/out/llama-3bit", false));
//   ... write files into output->folder() ...
//   CVXQ_RETURN_IF_ERROR(output->Upload(facts));
//   CVXQ_RETURN_IF_ERROR(output->Publish());
//
// A folder is written beside its final name and renamed (OutputFolder). In a bucket each file goes
// to a key with the digest of all of them, and one conditional write of a small manifest makes them
// the output (storage/output_manifest.h).
#ifndef CVXQ_PIPELINE_OUTPUT_H_
#define CVXQ_PIPELINE_OUTPUT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/status.h"
#include "nlohmann/json.hpp"
#include "storage/object_store.h"

namespace cvxq {

// Used from one thread. Goes without a trace unless published; what was uploaded stays, but nobody
// sees it, and the next attempt at the same output writes over it.
class Output {
 public:
  // kAlreadyExists where there is an output (unless `overwrite`, which buckets do not offer:
  // kInvalidArgument). In a bucket, kFailedPrecondition where the store does not keep what
  // conditional writes promise, kPermissionDenied where it cannot be written. `scratch`: as
  // Folder::Open.
  static StatusOr<std::unique_ptr<Output>> Create(const std::string& address, bool overwrite,
                                                  const std::string& scratch = "");
  // In a bucket that is known to keep them; nothing is looked at.
  static StatusOr<std::unique_ptr<Output>> ToStore(std::unique_ptr<ObjectStore> store,
                                                   const std::string& scratch);
  virtual ~Output() = default;

  // A local folder: for the output's files, and for intermediate results in unnamed files.
  virtual const std::string& folder() const = 0;
  // Brings the files to where Publish wants them. `facts` about them go into a bucket's manifest
  // and must be the same for each attempt at one job.
  virtual Status Upload(const nlohmann::json& facts) = 0;
  // The output is there and durable afterwards. kAlreadyExists where another one came first; an
  // equal one in a bucket is as good as this.
  virtual Status Publish() = 0;
};

// What an address of outputs has.
enum class OutputState : uint8_t { kNone, kSame, kOther };

// kSame for an output that has these files (name to SHA-256), kOther for another one or anything
// else that is in its place. Errors of the store.
StatusOr<OutputState> FindOutput(const std::string& address,
                                 const std::map<std::string, std::string>& sha256);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_OUTPUT_H_
