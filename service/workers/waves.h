// Waves of values, and sums, between stages on different workers. A stage's Send keeps the wave on
// its own worker until the job ends; the neighbour fetches it from there, as often as it needs to:
// where a stage begins anew on another worker, its neighbours have everything it asks for, and what
// it sends again is the same and was there already.
#ifndef CVXQ_SERVICE_WORKERS_WAVES_H_
#define CVXQ_SERVICE_WORKERS_WAVES_H_

#include <grpcpp/client_context.h>
#include <grpcpp/security/credentials.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "absl/time/time.h"
#include "cvxq/v1/worker_service.grpc.pb.h"
#include "pipeline/job_state.h"
#include "pipeline/stage_place.h"
#include "service/workers/worker_metrics.h"
#include "storage/spill_store.h"

namespace cvxq {

struct WaveKey {
  std::string job;
  int64_t boundary = 0;  // the stage before it; between replicas the first of its stages
  int32_t stream = 0;
  int64_t wave = 0;

  bool operator<(const WaveKey& other) const {
    return std::tie(job, boundary, stream, wave) <
           std::tie(other.job, other.boundary, other.stream, other.wave);
  }
};

// All waves that the stages on this worker have sent. Thread-safe.
class Waves {
 public:
  // Of each job `memory` bytes stay in memory, the rest goes to files in `folder`.
  Waves(std::string folder, int64_t memory) : folder_(std::move(folder)), memory_(memory) {}

  // Keeps a wave; one that is there already stays. Errors: disk.
  Status Put(const WaveKey& key, std::span<const float> values);
  // kUnavailable where it does not come in this time; kDataLoss, of the disk.
  // `waited`, if given: how long it was not there.
  StatusOr<std::vector<float>> Get(const WaveKey& key, absl::Duration wait,
                                   absl::Duration* waited = nullptr);
  // Those of a job that no stage will ask for once it is committed (pipeline/job_state.h).
  void Forget(const std::string& job, const JobPosition& committed);
  void Drop(const std::string& job);
  void Clear();

  WaveBytes bytes;  // of all jobs

 private:
  struct Place {
    std::shared_ptr<SpillStore> store;
    SpillStore::Handle handle;
  };
  const std::string folder_;
  const int64_t memory_;
  std::mutex mutex_;  // of all below
  std::condition_variable added_;
  std::map<WaveKey, Place> places_;
  std::map<std::string, std::shared_ptr<SpillStore>> stores_;  // by job
};

// Serves the waves of this worker to others.
class TransportService : public v1::StageTransport::Service {
 public:
  explicit TransportService(Waves& waves) : waves_(waves) {}
  grpc::Status FetchWave(grpc::ServerContext* context, const v1::FetchWaveRequest* request,
                         grpc::ServerWriter<v1::WaveChunk>* writer) override;

 private:
  Waves& waves_;
};

// One boundary as a stage on this worker sees it. Send and Receive from one thread at a time, the
// others from any.
class RemoteBoundary : public StageBoundary {
 public:
  // `stop`: whether the stage is to end. `times`, if given, gets what Send and Receive take. All
  // outlive this. `patience`: how long a neighbour may be
  // out of reach at one address.
  RemoteBoundary(std::string job, int64_t boundary, Waves& waves, const std::atomic<bool>& stop,
                 std::shared_ptr<grpc::ChannelCredentials> credentials,
                 absl::Duration patience = absl::Minutes(2), StageTimes* times = nullptr);

  Status Send(Stream stream, int64_t wave, std::span<const float> values) override;
  // Asks again until the wave is whole or the stage is stopped (kAborted), wherever the neighbour
  // is by then. kUnavailable where it cannot be reached, kDataLoss for a wave of another size.
  Status Receive(Stream stream, int64_t wave, std::span<float> values) override;

  // Where the neighbour is from now on; empty: not known.
  void SetNeighbour(const std::string& address);
  // Ends a wait; `stop` is set.
  void Wake();

 private:
  Status Fetch(const WaveKey& key, std::span<float> values, size_t& have, absl::Duration& transfer);

  const std::string job_;
  const int64_t boundary_;
  Waves& waves_;
  const std::atomic<bool>& stop_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  const absl::Duration patience_;
  StageTimes* const times_;
  std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  std::string address_, connected_;  // of the neighbour; of stub_
  std::shared_ptr<v1::StageTransport::Stub> stub_;
  grpc::ClientContext* call_ = nullptr;  // under way
  absl::Time reached_;                   // when the neighbour last answered, or came to be known
};

}  // namespace cvxq

#endif  // CVXQ_SERVICE_WORKERS_WAVES_H_
