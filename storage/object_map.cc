#include "storage/object_map.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <set>

#include "storage/errors.h"

namespace cvxq {
namespace {

// All maps of the process, each until it goes.
struct Registry {
  std::mutex mutex;
  std::set<ObjectMap*> maps;
};
Registry& AllMaps() {
  static Registry* const registry = new Registry;
  return *registry;
}

int64_t PageBytes() { return sysconf(_SC_PAGESIZE); }

Status CopyError(int error, const std::string& folder) {
  const Status status = ErrnoStatus(error, "cannot keep a local copy in", folder);
  return Status(status.code(), absl::StrCat(status.message(), "; TMPDIR names another folder"));
}

}  // namespace

std::string ScratchFolder() {
  const char* folder = std::getenv("TMPDIR");
  return folder != nullptr && *folder != '\0' ? folder : "/var/tmp";
}

int OpenUnnamedFile(const std::string& folder) {
  const int fd = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0) return fd;
  std::string path = folder + "/.cvxq-spill-XXXXXX";  // a file system without O_TMPFILE
  const int named = mkostemp(path.data(), O_CLOEXEC);
  if (named >= 0) unlink(path.c_str());
  return named;
}

StatusOr<std::shared_ptr<ObjectMap>> ObjectMap::Open(std::shared_ptr<ObjectStore> store,
                                                     ObjectInfo info, const std::string& folder,
                                                     int64_t room) {
  std::shared_ptr<ObjectMap> map(new ObjectMap(std::move(store), std::move(info), folder, room));
  const int64_t size = map->info_.size;
  if (size == 0) return map;
  map->file_ = OpenUnnamedFile(folder);
  if (map->file_ < 0 || ftruncate(map->file_, size) != 0) return CopyError(errno, folder);
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, map->file_, 0);
  if (data == MAP_FAILED) return CopyError(errno, folder);
  map->data_ = static_cast<std::byte*>(data);
  const std::lock_guard lock(AllMaps().mutex);
  AllMaps().maps.insert(map.get());
  return map;
}

ObjectMap::~ObjectMap() {
  {
    const std::lock_guard lock(AllMaps().mutex);
    AllMaps().maps.erase(this);
  }
  if (data_ != nullptr) munmap(data_, info_.size);
  if (file_ >= 0) close(file_);
}

Status ObjectMap::Load(int64_t offset, int64_t size, std::shared_ptr<const void>& hold) {
  if (size == 0) return absl::OkStatus();
  std::unique_lock lock(mutex_);
  Part& part = parts_[offset];  // map nodes stay where they are
  loaded_.wait(lock, [&part] { return part.state != Part::kLoading; });
  if (part.state == Part::kAbsent) {
    part.state = Part::kLoading;
    part.size = size;
    lock.unlock();
    Status status = Reserve(offset, size);
    const bool reserved = status.ok();
    if (reserved) {
      status =
          store_->Read(info_.key, info_.etag, offset, {data_ + offset, static_cast<size_t>(size)});
    }
    lock.lock();
    part.state = status.ok() ? Part::kHere : Part::kAbsent;
    if (reserved && !status.ok()) kept_ -= size;
    loaded_.notify_all();
    CVXQ_RETURN_IF_ERROR(status);
  }
  ++part.holds;
  part.released = false;
  lock.unlock();
  hold = std::shared_ptr<const void>(
      data_ + offset, [map = shared_from_this(), offset](const void*) { map->Unhold(offset); });
  return absl::OkStatus();
}

// Disk space for a part: writing to a mapped file that has none would end the process.
Status ObjectMap::Reserve(int64_t offset, int64_t size) {
  while (const int error = TryReserve(offset, size)) {
    if (error == EINTR) continue;
    if (error != ENOSPC || !ForgetReleasedOfAll()) return CopyError(error, folder_);
  }
  return absl::OkStatus();
}

int ObjectMap::TryReserve(int64_t offset, int64_t size) {
  {
    const std::lock_guard lock(mutex_);
    if (size > room_ - kept_) return ENOSPC;
    kept_ += size;
  }
  if (fallocate(file_, 0, offset, size) == 0) return 0;
  const int error = errno;
  const std::lock_guard lock(mutex_);
  kept_ -= size;
  return error;
}

bool ObjectMap::ForgetReleasedOfAll() {
  const std::lock_guard lock(AllMaps().mutex);
  bool any = false;
  for (ObjectMap* map : AllMaps().maps) any = map->ForgetReleased() || any;
  return any;
}

// Gives back the space of parts that were released and that nobody holds: of whole pages, so that
// neighbours keep theirs. False if there is none.
bool ObjectMap::ForgetReleased() {
  const std::lock_guard lock(mutex_);
  bool any = false;
  for (auto& [offset, part] : parts_) {
    if (part.state != Part::kHere || part.holds > 0 || !part.released) continue;
    const int64_t page = PageBytes();
    const int64_t begin = (offset + page - 1) / page * page;
    const int64_t end = (offset + part.size) / page * page;
    if (begin >= end) continue;
    if (fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, begin, end - begin) != 0) {
      return false;
    }
    part.state = Part::kAbsent;
    kept_ -= part.size;
    any = true;
  }
  return any;
}

void ObjectMap::Release(int64_t offset) {
  const std::lock_guard lock(mutex_);
  const auto found = parts_.find(offset);
  if (found == parts_.end() || found->second.state != Part::kHere) return;
  found->second.released = true;
  // Memory goes at once; what was written stays in the file.
  const int64_t page = PageBytes();
  const int64_t begin = (offset + page - 1) / page * page;
  const int64_t end = (offset + found->second.size) / page * page;
  if (begin < end) madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

void ObjectMap::Unhold(int64_t offset) {
  const std::lock_guard lock(mutex_);
  --parts_[offset].holds;
}

}  // namespace cvxq
