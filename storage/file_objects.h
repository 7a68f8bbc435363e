// Objects as files below one folder, keys as paths.
//
// Writing: into .cvxq-partial-* in the file's own folder, fsync, then rename (replace) or link(2)
// (only where nothing is: atomic on local file systems and on NFS), then fsync of the folder. So a
// name never stands for half an object, also after power is lost. Folders are made as they are
// needed and removed when Delete leaves them empty.
//
// The etag is size, time of modification and inode. This code sets that time to the nanosecond, so
// that two versions differ in it even where the system's clock ticks slowly; a file changed in
// place by others within one such tick, keeping its size, goes unnoticed.
//
// Symbolic links are followed, also out of the folder (model caches are made of them): who can
// write into the folder decides what is read. List does not walk into linked folders.
#ifndef CVXQ_STORAGE_FILE_OBJECTS_H_
#define CVXQ_STORAGE_FILE_OBJECTS_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "storage/object_store.h"

namespace cvxq {

// The folder need not exist yet. kFailedPrecondition where it is something else than a folder.
StatusOr<std::unique_ptr<ObjectStore>> OpenFileObjects(const std::string& folder);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_FILE_OBJECTS_H_
