// A file that appears whole or not at all: written as PATH.partial-PID, then renamed.
#ifndef CVXQ_STORAGE_ATOMIC_FILE_H_
#define CVXQ_STORAGE_ATOMIC_FILE_H_

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace cvxq {

// Writes all bytes to an open descriptor, through short writes and interruptions. A full disk is
// kResourceExhausted; `path` is for the message. (A process that wants an error rather than death
// at a limit on file sizes has to ignore SIGXFSZ.)
Status WriteAll(int descriptor, std::string_view bytes, const std::string& path);

// Flushes a folder's list of names to the disk, so that a rename in it survives a power cut.
Status SyncFolder(const std::string& folder);

// The folder that holds `path`: "." for a bare name.
std::string ParentFolder(const std::string& path);

// For one thread. Two of them for one path at a time are not supported.
class AtomicFile {
 public:
  // Refuses a path that exists and is no regular file (a folder, a device) with
  // kFailedPrecondition: renaming over it would be wrong.
  static StatusOr<std::unique_ptr<AtomicFile>> Create(const std::string& path);
  // Removes what was written unless committed.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // After an error the file cannot be committed any more.
  Status Write(std::string_view bytes);
  // fsyncs and renames; replaces an existing file.
  Status Commit();

 private:
  AtomicFile() = default;
  std::string path_, partial_path_;
  int descriptor_ = -1;
  Status status_;  // the first error
};

}  // namespace cvxq

#endif  // CVXQ_STORAGE_ATOMIC_FILE_H_
