// One object in memory, for what reads and writes objects and needs no disk for that.
#ifndef CVXQ_TESTS_STORAGE_MEMORY_OBJECTS_H_
#define CVXQ_TESTS_STORAGE_MEMORY_OBJECTS_H_

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "storage/object_store.h"

namespace cvxq {

// For one thread.
class MemoryObjects : public ObjectStore {
 public:
  std::map<std::string, std::string> objects;

  std::string address() const override { return "memory"; }
  StatusOr<ObjectInfo> Head(const std::string& key) override {
    const auto found = objects.find(key);
    if (found == objects.end()) return absl::NotFoundError(key);
    return ObjectInfo{key, static_cast<int64_t>(found->second.size()), "etag"};
  }
  Status Read(const std::string& key, const std::string&, int64_t offset,
              std::span<std::byte> out) override {
    CVXQ_ASSIGN_OR_RETURN(const ObjectInfo info, Head(key));
    if (offset < 0 || offset > info.size || static_cast<int64_t>(out.size()) > info.size - offset) {
      return absl::OutOfRangeError(key);
    }
    const auto* bytes = reinterpret_cast<const std::byte*>(objects[key].data());
    std::copy_n(bytes + offset, out.size(), out.begin());
    return absl::OkStatus();
  }
  StatusOr<std::string> ReadAll(const std::string& key, int64_t) override {
    CVXQ_RETURN_IF_ERROR(Head(key).status());
    return objects[key];
  }
  Status Write(const std::string& key, std::string_view bytes) override {
    objects[key] = bytes;
    return absl::OkStatus();
  }
  Status WriteIfAbsent(const std::string& key, std::string_view bytes) override {
    if (objects.contains(key)) return absl::AlreadyExistsError(key);
    return Write(key, bytes);
  }
  StatusOr<std::unique_ptr<ObjectWriter>> Create(const std::string& key, int64_t) override {
    return std::make_unique<Writer>(*this, key);
  }
  Status Delete(const std::string& key) override {
    objects.erase(key);
    return absl::OkStatus();
  }
  StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix) override {
    std::vector<ObjectInfo> found;
    for (const auto& [key, bytes] : objects) {
      if (key.starts_with(prefix)) {
        found.push_back({key, static_cast<int64_t>(bytes.size()), "etag"});
      }
    }
    return found;
  }

 private:
  class Writer : public ObjectWriter {
   public:
    Writer(MemoryObjects& store, std::string key) : store_(store), key_(std::move(key)) {}
    Status Append(std::span<const std::byte> bytes) override {
      bytes_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return absl::OkStatus();
    }
    Status Commit() override { return store_.Write(key_, bytes_); }

   private:
    MemoryObjects& store_;
    const std::string key_;
    std::string bytes_;
  };
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_STORAGE_MEMORY_OBJECTS_H_
