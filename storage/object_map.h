// A large object as memory: a file without a name, as large as the object, holds the parts of it
// that have been read, and is mapped.
//
//   CVXQ_ASSIGN_OR_RETURN(auto object, ObjectMap::Open(store, info, "/scratch"));
//   std::shared_ptr<const void> hold;
//   CVXQ_RETURN_IF_ERROR(object->Load(offset, size, hold));
//   ... use object->bytes().subspan(offset, size) while `hold` lives ...
//
// Each byte is read from the store once, as long as the disk has room for what was read. Where it
// has not, parts (of all objects of the process) that were released and that nobody holds are
// forgotten, and read again when they are loaded again. All bytes are those of one version of the
// object: `info.etag` pins it.
#ifndef CVXQ_STORAGE_OBJECT_MAP_H_
#define CVXQ_STORAGE_OBJECT_MAP_H_

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "base/status.h"
#include "storage/object_store.h"

namespace cvxq {

// Thread-safe. Held parts outlive it.
class ObjectMap : public std::enable_shared_from_this<ObjectMap> {
 public:
  // `folder` takes the file, which the system removes with the process however that ends. `room`
  // bytes at most are kept in it.
  static StatusOr<std::shared_ptr<ObjectMap>> Open(std::shared_ptr<ObjectStore> store,
                                                   ObjectInfo info, const std::string& folder,
                                                   int64_t room = INT64_MAX);
  ~ObjectMap();

  std::string address() const { return store_->address() + "/" + info_.key; }
  std::span<const std::byte> bytes() const { return {data_, static_cast<size_t>(info_.size)}; }

  // Bytes [offset, offset + size) are here until `hold` goes. Parts that are loaded do not overlap.
  // Errors: those of ObjectStore::Read; kFailedPrecondition where the object has changed;
  // kResourceExhausted where the folder has no room.
  Status Load(int64_t offset, int64_t size, std::shared_ptr<const void>& hold);
  // The part that was loaded at `offset` is not needed for a while.
  void Release(int64_t offset);

 private:
  struct Part {
    enum { kAbsent, kLoading, kHere } state = kAbsent;
    int64_t size = 0, holds = 0;
    bool released = false;
  };
  ObjectMap(std::shared_ptr<ObjectStore> store, ObjectInfo info, const std::string& folder,
            int64_t room)
      : store_(std::move(store)), info_(std::move(info)), folder_(folder), room_(room) {}
  Status Reserve(int64_t offset, int64_t size);
  // 0 or an errno.
  int TryReserve(int64_t offset, int64_t size);
  bool ForgetReleased();
  static bool ForgetReleasedOfAll();
  void Unhold(int64_t offset);

  const std::shared_ptr<ObjectStore> store_;
  const ObjectInfo info_;
  const std::string folder_;
  int file_ = -1;
  std::byte* data_ = nullptr;
  const int64_t room_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable loaded_;
  std::map<int64_t, Part> parts_;  // by offset
  int64_t kept_ = 0;               // bytes of parts that have space in the file
};

// Where local copies of remote files and outputs on their way to a bucket go: TMPDIR, else
// /var/tmp.
std::string ScratchFolder();

// An open file without a name in `folder`; -1 and errno where there can be none.
int OpenUnnamedFile(const std::string& folder);

}  // namespace cvxq

#endif  // CVXQ_STORAGE_OBJECT_MAP_H_
