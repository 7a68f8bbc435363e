#include "storage/object_store.h"

#include <atomic>
#include <random>
#include <system_error>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "storage/errors.h"
#include "storage/file_objects.h"
#include "storage/s3/s3_config.h"
#include "storage/s3/s3_store.h"

namespace cvxq {
namespace {

constexpr size_t kLongestKey = 900;  // S3 takes 1024 bytes with the address's prefix
constexpr size_t kLongestPart = 255;
constexpr int kRaces = 4;
constexpr int kRacers = 8;

Status BadKey(const std::string& key, const char* why) {
  return absl::InvalidArgumentError(
      absl::StrCat("the object key ", Quoted(key), " ", why, "; choose another name"));
}

Status Unsafe(const std::string& address, const std::string& what) {
  return absl::FailedPreconditionError(
      absl::StrCat(address, ": ", what,
                   ", so that two programs could publish at once; use a store "
                   "that has conditional "
                   "writes (If-None-Match)"));
}

// One writer after another.
Status TryInTurn(ObjectStore& store, const std::string& key) {
  const Status first = store.WriteIfAbsent(key, "first");
  if (first.code() == absl::StatusCode::kUnimplemented ||
      first.code() == absl::StatusCode::kAlreadyExists) {
    return Unsafe(store.address(), "it refuses to write only where nothing is");
  }
  CVXQ_RETURN_IF_ERROR(first);
  const Status second = store.WriteIfAbsent(key, "second");
  if (second.ok()) return Unsafe(store.address(), "it writes also where something is");
  if (second.code() != absl::StatusCode::kAlreadyExists) return second;
  CVXQ_ASSIGN_OR_RETURN(const std::string found, store.ReadAll(key, 16));
  if (found != "first") return Unsafe(store.address(), "it writes also where something is");
  return absl::OkStatus();
}

// Several writers at once.
Status TryRace(ObjectStore& store, const std::string& key) {
  std::vector<Status> outcomes(kRacers);
  std::atomic<bool> go = false;
  {
    std::vector<std::jthread> racers;
    for (int i = 0; i < kRacers; ++i) {
      try {
        racers.emplace_back([&, i] {
          while (!go) std::this_thread::yield();
          outcomes[i] = store.WriteIfAbsent(key, std::string(1, static_cast<char>('a' + i)));
        });
      } catch (const std::system_error&) {
        outcomes[i] = absl::AlreadyExistsError("no thread: this one does not take part");
      }
    }
    go = true;
  }
  CVXQ_ASSIGN_OR_RETURN(const std::string found, store.ReadAll(key, 16));
  for (int i = 0; i < kRacers; ++i) {
    const bool there = found == std::string(1, static_cast<char>('a' + i));
    if (outcomes[i].ok() != there) {
      if (outcomes[i].ok()) {
        return Unsafe(store.address(), "it lets several write where nothing was");
      }
      return outcomes[i];
    }
    if (!there && outcomes[i].code() != absl::StatusCode::kAlreadyExists) return outcomes[i];
  }
  return absl::OkStatus();
}

}  // namespace

Status CheckKey(const std::string& key) {
  if (key.empty()) return BadKey(key, "is empty");
  if (key.size() > kLongestKey) return BadKey(key, "is longer than 900 bytes");
  for (const char c : key) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      return BadKey(key, "has control characters");
    }
  }
  for (const absl::string_view part : absl::StrSplit(key, '/')) {
    if (part.empty()) return BadKey(key, "has an empty part");
    if (part == "." || part == "..") return BadKey(key, "has a part that means another folder");
    if (part.size() > kLongestPart) return BadKey(key, "has a part of more than 255 bytes");
    if (absl::StartsWith(part, kPartialName)) {
      return BadKey(key, "has a part that looks like an unfinished file's");
    }
  }
  return absl::OkStatus();
}

Status ObjectStore::CheckConditionalWrites(const std::string& scratch_key) {
  std::random_device random;
  const std::string base = absl::StrFormat("%s.%08x%08x", scratch_key, random(), random());
  CVXQ_RETURN_IF_ERROR(CheckKey(base));
  std::vector<std::string> keys = {base};
  Status status = TryInTurn(*this, base);
  for (int race = 0; status.ok() && race < kRaces; ++race) {
    keys.push_back(absl::StrCat(base, ".", race));
    status = TryRace(*this, keys.back());
  }
  for (const std::string& key : keys) status.Update(Delete(key));
  return status;
}

StatusOr<std::unique_ptr<ObjectStore>> OpenObjectStore(const std::string& address,
                                                       const ObjectStoreOptions& options) {
  if (options.parallel_requests < 1 || options.part_bytes < 1 || options.deadline_ms < 0 ||
      options.backoff_ms < 0) {
    return absl::InternalError("options of an object store out of range");
  }
  if (absl::StartsWith(address, "s3://")) {
    CVXQ_ASSIGN_OR_RETURN(S3Config config, S3ConfigFromEnvironment(address));
    return OpenS3Store(std::move(config), options);
  }
  if (absl::StartsWith(address, "file:///")) return OpenFileObjects(address.substr(7));
  const bool other = absl::StrContains(address, "://");
  if (address.empty() || other || address.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("no address of objects: ", Quoted(address),
                     "; write a folder's path, file:///PATH or s3://BUCKET/PREFIX"));
  }
  return OpenFileObjects(address);
}

}  // namespace cvxq
