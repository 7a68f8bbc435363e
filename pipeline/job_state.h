// What a job has done so far, kept in an object store, so that whoever goes on with the job after a
// crash, with any number of stages, does only the rest.
//
//   IDENTITY/commit/SSSSSS-WWWWWW             a commit: how far all blocks have come, and the
//                                             answers to all orders until then
//   IDENTITY/block/BBBBB/sums-SSSSSS-WWWWWW   of one block: sums of the gradient pass behind so
//   many
//                                             steps, after so many waves of it,
//   IDENTITY/block/BBBBB/gradients            what the steps of the job have made,
//   IDENTITY/block/BBBBB/moments
//   IDENTITY/block/BBBBB/averages-SSSSSS      gradients after a further pass, which is step S,
//   IDENTITY/block/BBBBB/codes-SSSSSS         and the codes as step S has left them
//   IDENTITY/tuning                           how far tuning has come
//
// All of it is a function of the job alone: it has the same bytes whoever writes it, however often.
// So nobody needs a lock, and what a lost process still writes does no harm. IDENTITY is a digest
// of all that results depend on: what another job has left at this address is never used.
#ifndef CVXQ_PIPELINE_JOB_STATE_H_
#define CVXQ_PIPELINE_JOB_STATE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "pipeline/entropy_rate.h"
#include "storage/archive.h"
#include "storage/object_store.h"

namespace cvxq {

// How far a job has come. Steps are numbered: 1 gradients, 2 moments, then each order and each
// further pass for gradients.
struct JobPosition {
  int64_t step = 0;   // so many steps are done
  int64_t waves = 0;  // of the gradient pass that is the next step: so many are in the sums

  auto operator<=>(const JobPosition&) const = default;
};
inline constexpr int64_t kGradientStep = 1, kMomentStep = 2;

// An answer without the places of its counts that are zero: a job may have thousands of them.
struct KeptAnswer {
  std::vector<EntropyAnswer::Linear> linears;
  std::vector<uint32_t> places;
  std::vector<uint64_t> counts;
  std::vector<SpreadHistogram> histograms;

  static KeptAnswer Of(const EntropyAnswer& answer);
  EntropyAnswer Answer() const;
};

struct JobCommit {
  JobPosition position;
  double output_damping = 0, input_damping = 0;  // the largest that factorisations took
  std::vector<int64_t> coded;       // by block: the step whose codes it has; 0, or beyond: none
  std::vector<KeptAnswer> answers;  // to the orders until then; of gradient passes: empty ones
};

// A commit as an object. Load gives kDataLoss for what Save has not written.
Status SaveCommit(const JobCommit& commit, ArchiveWriter& writer);
Status LoadCommit(ArchiveReader& reader, JobCommit& commit);

enum class BlockPart : uint8_t { kSums, kGradients, kMoments, kAverages, kCodes };

// Thread-safe.
class JobState {
 public:
  // `identity` is of any length. Nothing is written before the first Write.
  static StatusOr<std::unique_ptr<JobState>> Open(const std::string& address,
                                                  const std::string& identity);
  // The same job's, for those who work on its stages.
  static StatusOr<std::unique_ptr<JobState>> OpenDigest(const std::string& address,
                                                        const std::string& digest);

  const std::string& address() const { return address_; }
  const std::string& digest() const { return digest_; }

  // The state of a block. `at` is the position for kSums, has the step of kAverages and kCodes, and
  // does not matter for others.
  StatusOr<std::unique_ptr<ArchiveWriter>> Write(int64_t block, BlockPart part,
                                                 const JobPosition& at, int64_t expected_bytes);
  // kDataLoss where there is none.
  StatusOr<std::unique_ptr<ArchiveReader>> Read(int64_t block, BlockPart part,
                                                const JobPosition& at);
  // The steps whose codes of a block are there, in rising order.
  StatusOr<std::vector<int64_t>> CodedSteps(int64_t block);
  // How far tuning has come; there is one, which Write replaces.
  StatusOr<std::unique_ptr<ArchiveWriter>> WriteTuning(int64_t expected_bytes);
  // nullptr where there is none.
  StatusOr<std::unique_ptr<ArchiveReader>> ReadTuning();

  // Durable when it returns.
  Status Commit(const JobCommit& commit);
  // Removes what this position does not need: nobody will begin before it any more.
  Status RemoveBefore(const JobPosition& position);
  // The furthest commit that can be read; nullopt: none.
  StatusOr<std::optional<JobCommit>> Last();
  // JobCommit::coded of the commit of a position; kDataLoss where it is not there.
  StatusOr<std::vector<int64_t>> Coded(const JobPosition& position);
  // Whether the address holds anything of this job, and of others.
  struct Held {
    bool own = false, others = false;
  };
  StatusOr<Held> Look();
  // Removes all states at the address, of whatever job, and nothing else.
  Status Remove();

 private:
  JobState(std::unique_ptr<ObjectStore> objects, std::string address, std::string digest);
  std::string BlockKey(int64_t block, BlockPart part, const JobPosition& at) const;
  std::string CommitKey(const JobPosition& position) const;
  StatusOr<std::vector<ObjectInfo>> AllStates();

  const std::unique_ptr<ObjectStore> objects_;
  const std::string address_, digest_;
};

// Where the state of a job that makes this output is kept: beside a folder, below a bucket's
// prefix, which is all that may be allowed to be written.
std::string StateAddress(const std::string& output);

// Removes all states at an address: nobody will go on with them.
Status RemoveJobStates(const std::string& address);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_JOB_STATE_H_
