#include "pipeline/job_state.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "base/failpoint.h"
#include "storage/folder.h"
#include "storage/s3/sigv4.h"

namespace cvxq {
namespace {

constexpr size_t kDigestSize = 32;
constexpr char kTuning[] = "/tuning";

const char* NameOf(BlockPart part) {
  switch (part) {
    case BlockPart::kSums:
      return "sums";
    case BlockPart::kGradients:
      return "gradients";
    case BlockPart::kMoments:
      return "moments";
    case BlockPart::kAverages:
      return "averages";
    case BlockPart::kCodes:
      return "codes";
  }
  return "";
}

bool IsDigest(const std::string& name) {
  return name.size() == kDigestSize && std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

// Whether a key is one that states are made of.
bool IsOfState(const std::string& key) {
  return IsDigest(key.substr(0, key.find('/'))) &&
         (key.find("/commit/") == kDigestSize || key.find("/block/") == kDigestSize ||
          key.substr(kDigestSize) == kTuning);
}

// The number at the end of a key like ".../codes-000012"; -1 where there is none.
int64_t NumberAfter(const std::string& key, const std::string& prefix) {
  int64_t number = -1;
  if (!absl::StartsWith(key, prefix) || !absl::SimpleAtoi(key.substr(prefix.size()), &number)) {
    return -1;
  }
  return number;
}

Status SaveAnswer(const KeptAnswer& answer, ArchiveWriter& writer) {
  CVXQ_RETURN_IF_ERROR(writer.Put(answer.linears));
  CVXQ_RETURN_IF_ERROR(writer.Put(answer.places));
  CVXQ_RETURN_IF_ERROR(writer.Put(answer.counts));
  CVXQ_RETURN_IF_ERROR(writer.Put(static_cast<int64_t>(answer.histograms.size())));
  for (const SpreadHistogram& histogram : answer.histograms) {
    CVXQ_RETURN_IF_ERROR(writer.Put(histogram.bins()));
  }
  return absl::OkStatus();
}

Status LoadAnswer(ArchiveReader& reader, KeptAnswer& answer) {
  CVXQ_RETURN_IF_ERROR(reader.Get(answer.linears));
  CVXQ_RETURN_IF_ERROR(reader.Get(answer.places));
  CVXQ_RETURN_IF_ERROR(
      reader.GetExactly(answer.counts, static_cast<int64_t>(answer.places.size())));
  const size_t size = SymbolCounts().all().size();
  for (const uint32_t place : answer.places) {
    if (place >= size) return reader.Damaged("a place beyond the end");
  }
  int64_t histograms = 0;
  CVXQ_RETURN_IF_ERROR(reader.Get(histograms));
  for (int64_t i = 0; i < histograms; ++i) {
    std::vector<double> bins;
    SpreadHistogram histogram;
    CVXQ_RETURN_IF_ERROR(reader.GetExactly(bins, static_cast<int64_t>(histogram.bins().size())));
    for (size_t bin = 0; bin < bins.size(); ++bin) histogram.Set(bin, bins[bin]);
    answer.histograms.push_back(std::move(histogram));
  }
  return absl::OkStatus();
}

}  // namespace

KeptAnswer KeptAnswer::Of(const EntropyAnswer& answer) {
  KeptAnswer kept{.linears = answer.linears, .histograms = answer.histograms};
  const std::span<const uint64_t> counts = answer.counts.all();
  for (size_t place = 0; place < counts.size(); ++place) {
    if (counts[place] == 0) continue;
    kept.places.push_back(static_cast<uint32_t>(place));
    kept.counts.push_back(counts[place]);
  }
  return kept;
}

EntropyAnswer KeptAnswer::Answer() const {
  EntropyAnswer answer{.linears = linears, .histograms = histograms};
  for (size_t i = 0; i < places.size(); ++i) answer.counts.Set(places[i], counts[i]);
  return answer;
}

Status SaveCommit(const JobCommit& commit, ArchiveWriter& writer) {
  CVXQ_RETURN_IF_ERROR(writer.Put(commit.position.step));
  CVXQ_RETURN_IF_ERROR(writer.Put(commit.position.waves));
  CVXQ_RETURN_IF_ERROR(writer.Put(commit.output_damping));
  CVXQ_RETURN_IF_ERROR(writer.Put(commit.input_damping));
  CVXQ_RETURN_IF_ERROR(writer.Put(commit.coded));
  for (const KeptAnswer& answer : commit.answers) {
    CVXQ_RETURN_IF_ERROR(SaveAnswer(answer, writer));
  }
  return writer.Commit();
}

namespace {

// All but the answers.
Status LoadHead(ArchiveReader& reader, JobCommit& commit) {
  CVXQ_RETURN_IF_ERROR(reader.Get(commit.position.step));
  CVXQ_RETURN_IF_ERROR(reader.Get(commit.position.waves));
  CVXQ_RETURN_IF_ERROR(reader.Get(commit.output_damping));
  CVXQ_RETURN_IF_ERROR(reader.Get(commit.input_damping));
  CVXQ_RETURN_IF_ERROR(reader.Get(commit.coded));
  if (commit.position.step < 0 || commit.position.waves < 0) {
    return reader.Damaged("its numbers do not fit");
  }
  return absl::OkStatus();
}

}  // namespace

Status LoadCommit(ArchiveReader& reader, JobCommit& commit) {
  CVXQ_RETURN_IF_ERROR(LoadHead(reader, commit));
  for (int64_t step = kMomentStep; step < commit.position.step; ++step) {
    CVXQ_RETURN_IF_ERROR(LoadAnswer(reader, commit.answers.emplace_back()));
  }
  return reader.Finish();
}

JobState::JobState(std::unique_ptr<ObjectStore> objects, std::string address, std::string digest)
    : objects_(std::move(objects)), address_(std::move(address)), digest_(std::move(digest)) {}

StatusOr<std::unique_ptr<JobState>> JobState::Open(const std::string& address,
                                                   const std::string& identity) {
  return OpenDigest(address, Sha256Hex(identity).substr(0, kDigestSize));
}

StatusOr<std::unique_ptr<JobState>> JobState::OpenDigest(const std::string& address,
                                                         const std::string& digest) {
  if (!IsDigest(digest)) return absl::InvalidArgumentError("no digest of a job");
  CVXQ_ASSIGN_OR_RETURN(std::unique_ptr<ObjectStore> objects, OpenObjectStore(address));
  return std::unique_ptr<JobState>(new JobState(std::move(objects), address, digest));
}

std::string JobState::BlockKey(int64_t block, BlockPart part, const JobPosition& at) const {
  std::string key = absl::StrFormat("%s/block/%05d/%s", digest_, block, NameOf(part));
  if (part == BlockPart::kSums) absl::StrAppendFormat(&key, "-%06d-%06d", at.step, at.waves);
  if (part == BlockPart::kAverages || part == BlockPart::kCodes) {
    absl::StrAppendFormat(&key, "-%06d", at.step);
  }
  return key;
}

std::string JobState::CommitKey(const JobPosition& position) const {
  return absl::StrFormat("%s/commit/%06d-%06d", digest_, position.step, position.waves);
}

StatusOr<std::unique_ptr<ArchiveWriter>> JobState::Write(int64_t block, BlockPart part,
                                                         const JobPosition& at,
                                                         int64_t expected_bytes) {
  Failpoint("state-before-block");
  CVXQ_ASSIGN_OR_RETURN(auto object, objects_->Create(BlockKey(block, part, at), expected_bytes));
  return std::make_unique<ArchiveWriter>(std::move(object));
}

StatusOr<std::unique_ptr<ArchiveReader>> JobState::Read(int64_t block, BlockPart part,
                                                        const JobPosition& at) {
  StatusOr<std::unique_ptr<ArchiveReader>> reader =
      ArchiveReader::Open(*objects_, BlockKey(block, part, at));
  if (!absl::IsNotFound(reader.status())) return reader;
  return absl::DataLossError(absl::StrFormat("%s: the %s of block %d are not there (any more)",
                                             address_, NameOf(part), block));
}

StatusOr<std::unique_ptr<ArchiveWriter>> JobState::WriteTuning(int64_t expected_bytes) {
  CVXQ_ASSIGN_OR_RETURN(auto object, objects_->Create(digest_ + kTuning, expected_bytes));
  return std::make_unique<ArchiveWriter>(std::move(object));
}

StatusOr<std::unique_ptr<ArchiveReader>> JobState::ReadTuning() {
  StatusOr<std::unique_ptr<ArchiveReader>> reader =
      ArchiveReader::Open(*objects_, digest_ + kTuning);
  if (absl::IsNotFound(reader.status())) return nullptr;
  return reader;
}

StatusOr<std::vector<int64_t>> JobState::CodedSteps(int64_t block) {
  const std::string prefix = absl::StrFormat("%s/block/%05d/codes-", digest_, block);
  CVXQ_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> objects, objects_->List(prefix));
  std::vector<int64_t> steps;
  for (const ObjectInfo& object : objects) {
    if (const int64_t step = NumberAfter(object.key, prefix); step > 0) steps.push_back(step);
  }
  return steps;
}

Status JobState::Commit(const JobCommit& commit) {
  Failpoint("state-before-commit");
  CVXQ_ASSIGN_OR_RETURN(auto object, objects_->Create(CommitKey(commit.position), 0));
  ArchiveWriter writer(std::move(object));
  CVXQ_RETURN_IF_ERROR(SaveCommit(commit, writer));
  Failpoint("state-committed");
  return absl::OkStatus();
}

StatusOr<std::vector<int64_t>> JobState::Coded(const JobPosition& position) {
  const StatusOr<std::unique_ptr<ArchiveReader>> reader =
      ArchiveReader::Open(*objects_, CommitKey(position));
  if (absl::IsNotFound(reader.status())) {
    return absl::DataLossError(address_ + ": a commit is not there (any more)");
  }
  CVXQ_RETURN_IF_ERROR(reader.status());
  JobCommit commit;
  CVXQ_RETURN_IF_ERROR(LoadHead(**reader, commit));
  return std::move(commit.coded);
}

StatusOr<std::optional<JobCommit>> JobState::Last() {
  CVXQ_ASSIGN_OR_RETURN(std::vector<ObjectInfo> objects, objects_->List(digest_ + "/commit/"));
  std::reverse(objects.begin(), objects.end());  // names are in the order of positions
  for (const ObjectInfo& object : objects) {
    JobCommit commit;
    const auto read = [&]() -> Status {
      CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<ArchiveReader> reader,
                            ArchiveReader::Open(*objects_, object.key));
      return LoadCommit(*reader, commit);
    };
    const Status status = read();
    if (status.ok()) return commit;
    if (!absl::IsDataLoss(status) && !absl::IsNotFound(status)) return status;
  }
  return std::nullopt;
}

// Commits before this one, sums of fewer waves, and codes that later ones have replaced.
Status JobState::RemoveBefore(const JobPosition& position) {
  CVXQ_ASSIGN_OR_RETURN(std::vector<ObjectInfo> objects, objects_->List(digest_ + "/"));
  const std::string commits = digest_ + "/commit/";
  // No commit may outlive what it names.
  std::stable_partition(objects.begin(), objects.end(), [&](const ObjectInfo& object) {
    return absl::StartsWith(object.key, commits);
  });
  const std::string of_position = CommitKey(position);
  std::map<std::string, std::string> newest;  // codes, by block
  for (const ObjectInfo& object : objects) {
    const std::string& key = object.key;
    const size_t name = key.rfind('/') + 1;
    const std::string folder = key.substr(0, name);
    bool old = absl::StartsWith(key, commits) && key < of_position;
    const std::string sums =
        folder + absl::StrFormat("sums-%06d-%06d", position.step, position.waves);
    old = old || (absl::StartsWith(key, folder + "sums-") && key < sums);
    if (const int64_t step = NumberAfter(key, folder + "codes-");
        step >= 0 && step <= position.step) {
      std::string& last = newest[folder];
      if (!last.empty()) CVXQ_RETURN_IF_ERROR(objects_->Delete(last));
      last = key;
    }
    if (old) CVXQ_RETURN_IF_ERROR(objects_->Delete(key));
  }
  Failpoint("state-cleaned");
  return absl::OkStatus();
}

// All objects of states at the address. What else may lie there is nobody's business.
StatusOr<std::vector<ObjectInfo>> JobState::AllStates() {
  CVXQ_ASSIGN_OR_RETURN(std::vector<ObjectInfo> objects, objects_->List(""));
  std::erase_if(objects, [](const ObjectInfo& object) { return !IsOfState(object.key); });
  return objects;
}

std::string StateAddress(const std::string& output) {
  return output + (IsBucketAddress(output) ? "/resume" : ".resume");
}

Status RemoveJobStates(const std::string& address) {
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<JobState> state, JobState::Open(address, ""));
  return state->Remove();
}

StatusOr<JobState::Held> JobState::Look() {
  CVXQ_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> objects, AllStates());
  Held held;
  for (const ObjectInfo& object : objects) {
    (absl::StartsWith(object.key, digest_ + "/") ? held.own : held.others) = true;
  }
  return held;
}

Status JobState::Remove() {
  Failpoint("state-before-removal");
  CVXQ_ASSIGN_OR_RETURN(const std::vector<ObjectInfo> objects, AllStates());
  // Commits first: a state that is half gone must not look whole.
  for (const bool commits : {true, false}) {
    for (const ObjectInfo& object : objects) {
      if (absl::StrContains(object.key, "/commit/") != commits) continue;
      CVXQ_RETURN_IF_ERROR(objects_->Delete(object.key));
    }
  }
  if (IsBucketAddress(address_)) return absl::OkStatus();
  // What killed processes have left unfinished in our own folders; then the folder, if it is empty.
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(address_, ignored)) {
    const std::string name = entry.path().filename();
    if (IsDigest(name)) std::filesystem::remove_all(entry.path(), ignored);
  }
  std::filesystem::remove(address_, ignored);
  return absl::OkStatus();
}

}  // namespace cvxq
