// What goes wrong with which request to the fake S3 server.
#include "base/random.h"
#include "tests/storage/fake_s3.h"

namespace cvxq {
namespace {

// Ways that may pass; a completion may also fail behind a good status.
S3Fault RandomFault(S3Op op, uint64_t bits) {
  const std::vector<S3Fault> faults = {{S3Fault::kAnswer, 503, "SlowDown"},
                                       {S3Fault::kAnswer, 500, "InternalError"},
                                       {S3Fault::kResetBefore},
                                       {S3Fault::kResetAfter},
                                       {S3Fault::kLostReply},
                                       {S3Fault::kTruncated},
                                       {S3Fault::kDrip},
                                       {S3Fault::kLate, 20},
                                       {S3Fault::kErrorIn200, 0, "InternalError"}};
  return faults[bits % (faults.size() - (op == S3Op::kComplete ? 0 : 1))];
}

}  // namespace

void FakeS3::Break(S3Op op, const S3Fault& fault, int times) {
  const std::lock_guard lock(mutex_);
  faults_[op].insert(faults_[op].end(), times, fault);
}

void FakeS3::Mend(S3Op op) {
  const std::lock_guard lock(mutex_);
  faults_[op].clear();
}

void FakeS3::BreakAtRandom(uint64_t seed) {
  const std::lock_guard lock(mutex_);
  seed_ = seed;
}

void FakeS3::Deny(S3Op op, const std::string& prefix, int first) {
  const std::lock_guard lock(mutex_);
  denials_[op].push_back({prefix, first});
}

int FakeS3::faults() const {
  const std::lock_guard lock(mutex_);
  return faults_done_;
}

bool FakeS3::ChooseFault(const Request& request, S3Fault& fault) {
  const int number = counts_[request.op]++;
  bool broken = false;
  for (Denial& denial : denials_[request.op]) {
    if (!request.key.starts_with(denial.prefix) || denial.first-- > 0) continue;
    fault = {S3Fault::kAnswer, 403, "AccessDenied"};
    broken = true;
  }
  if (auto& waiting = faults_[request.op]; !broken && !waiting.empty()) {
    fault = waiting.front();
    waiting.pop_front();
    broken = true;
  }
  if (!broken && seed_ && number % 4 != 3) {
    const uint64_t bits = RandomBits(DeriveKey(*seed_, static_cast<uint64_t>(request.op)), number);
    broken = bits % 5 < 2;
    if (broken) fault = RandomFault(request.op, bits / 5);
  }
  faults_done_ += broken;
  return broken;
}

}  // namespace cvxq
