#include "service/workers/waves.h"

#include <grpcpp/create_channel.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "absl/time/clock.h"
#include "base/failpoint.h"
#include "pipeline/stage_times.h"
#include "service/workers/wire.h"

namespace cvxq {
namespace {

constexpr absl::Duration kServerWait = absl::Milliseconds(500);  // for a wave that is not there yet
constexpr std::chrono::milliseconds kPause{20};                  // before asking again
constexpr std::chrono::seconds kDeadline{60};                    // of one fetch

}  // namespace

Status Waves::Put(const WaveKey& key, std::span<const float> values) {
  std::shared_ptr<SpillStore> store;
  {
    const std::lock_guard lock(mutex_);
    if (places_.contains(key)) return absl::OkStatus();
    std::shared_ptr<SpillStore>& of_job = stores_[key.job];
    if (of_job == nullptr) of_job = std::make_shared<SpillStore>(folder_, memory_);
    store = of_job;
  }
  CVXQ_ASSIGN_OR_RETURN(const SpillStore::Handle handle, store->Put(values));
  const std::lock_guard lock(mutex_);
  // The job may have been dropped meanwhile.
  if (const auto of_job = stores_.find(key.job); of_job != stores_.end()) {
    if (of_job->second == store) places_.try_emplace(key, Place{store, handle});
  }
  added_.notify_all();
  return absl::OkStatus();
}

StatusOr<std::vector<float>> Waves::Get(const WaveKey& key, absl::Duration wait,
                                        absl::Duration* waited) {
  const absl::Time asked = absl::Now();
  Place place;
  {
    std::unique_lock lock(mutex_);
    const bool there = added_.wait_for(lock, absl::ToChronoNanoseconds(wait),
                                       [&] { return places_.contains(key); });
    if (!there) return absl::UnavailableError("the wave is not there yet");
    place = places_.at(key);
    if (waited != nullptr) *waited = absl::Now() - asked;
  }
  std::vector<float> values(place.store->size(place.handle));
  if (values.empty()) return absl::UnavailableError("the wave is not needed any more");
  CVXQ_RETURN_IF_ERROR(place.store->Get(place.handle, values));
  return values;
}

void Waves::Forget(const std::string& job, const JobPosition& committed) {
  const std::lock_guard lock(mutex_);
  std::erase_if(places_, [&](const auto& entry) {
    const WaveKey& key = entry.first;
    const auto stream = static_cast<StageBoundary::Stream>(key.stream);
    const bool is_wave =
        stream == StageBoundary::Stream::kForward || stream == StageBoundary::Stream::kBackward;
    const bool of_moments =
        stream == StageBoundary::Stream::kMoments || stream == StageBoundary::Stream::kMomentSums;
    const bool past = committed.step >= (of_moments ? kMomentStep : kGradientStep) ||
                      (is_wave && key.wave < committed.waves);
    if (key.job != job || !past) return false;
    entry.second.store->Drop(entry.second.handle);
    return true;
  });
}

void Waves::Drop(const std::string& job) {
  const std::lock_guard lock(mutex_);
  std::erase_if(places_, [&](const auto& entry) { return entry.first.job == job; });
  stores_.erase(job);
}

void Waves::Clear() {
  const std::lock_guard lock(mutex_);
  places_.clear();
  stores_.clear();
}

grpc::Status TransportService::FetchWave(grpc::ServerContext* context,
                                         const v1::FetchWaveRequest* request,
                                         grpc::ServerWriter<v1::WaveChunk>* writer) {
  Failpoint("transport-asked");
  absl::Duration waited;
  const StatusOr<std::vector<float>> values =
      waves_.Get({request->job(), request->boundary(), request->stream(), request->wave()},
                 kServerWait, &waited);
  if (!values.ok()) {
    const bool missing = absl::IsUnavailable(values.status());
    return {missing ? grpc::StatusCode::NOT_FOUND : grpc::StatusCode::DATA_LOSS,
            std::string(values.status().message())};
  }
  const char* data = reinterpret_cast<const char*>(values->data());
  const size_t size = values->size() * sizeof(float);
  if (request->offset() > size) {
    return {grpc::StatusCode::OUT_OF_RANGE, "the wave is shorter than that"};
  }
  for (size_t offset = request->offset(); offset < size && !context->IsCancelled();) {
    const size_t part = std::min(kPartBytes, size - offset);
    v1::WaveChunk chunk;
    chunk.set_offset(offset);
    chunk.set_crc32(Checksum(data + offset, part));
    chunk.set_data(data + offset, part);
    chunk.set_waited_seconds(absl::ToDoubleSeconds(std::exchange(waited, absl::ZeroDuration())));
    if (!writer->Write(chunk)) break;
    Failpoint("transport-chunk-sent");
    waves_.bytes.sent += static_cast<int64_t>(part);
    offset += part;
  }
  return grpc::Status::OK;
}

RemoteBoundary::RemoteBoundary(std::string job, int64_t boundary, Waves& waves,
                               const std::atomic<bool>& stop,
                               std::shared_ptr<grpc::ChannelCredentials> credentials,
                               absl::Duration patience, StageTimes* times)
    : job_(std::move(job)),
      boundary_(boundary),
      waves_(waves),
      stop_(stop),
      credentials_(std::move(credentials)),
      patience_(patience),
      times_(times) {}

Status RemoteBoundary::Send(Stream stream, int64_t wave, std::span<const float> values) {
  if (stop_) return absl::AbortedError("the stage was taken away");
  const StageTimes::Timer timer(times_, StageTask::kTransfer);
  Failpoint("wave-before-keep");
  CVXQ_RETURN_IF_ERROR(waves_.Put({job_, boundary_, static_cast<int32_t>(stream), wave}, values));
  Failpoint("wave-kept");
  return absl::OkStatus();
}

Status RemoteBoundary::Receive(Stream stream, int64_t wave, std::span<float> values) {
  const WaveKey key{job_, boundary_, static_cast<int32_t>(stream), wave};
  Failpoint("wave-before-fetch");
  const absl::Time begin = absl::Now();
  absl::Duration transfer;
  for (size_t have = 0; !stop_;) {
    CVXQ_RETURN_IF_ERROR(Fetch(key, values, have, transfer));
    if (have == values.size_bytes()) {
      if (times_ != nullptr) {
        times_->Add(StageTask::kTransfer, 1, absl::ToDoubleSeconds(transfer));
        times_->Add(StageTask::kWaiting, 1, absl::ToDoubleSeconds(absl::Now() - begin - transfer));
      }
      Failpoint("wave-fetched");
      return absl::OkStatus();
    }
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kPause, [&] { return stop_.load(); });
  }
  return absl::AbortedError("the stage was taken away");
}

// As much more of a wave as comes in one call; adds what that takes beyond waiting for the wave to
// `transfer`. An error only where asking again is of no use.
Status RemoteBoundary::Fetch(const WaveKey& key, std::span<float> values, size_t& have,
                             absl::Duration& transfer) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kDeadline);
  std::shared_ptr<v1::StageTransport::Stub> stub;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stop_ || !address_.empty(); });
    if (stop_) return absl::OkStatus();
    if (connected_ != address_) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
      arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 50);
      arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
      stub_ =
          v1::StageTransport::NewStub(grpc::CreateCustomChannel(address_, credentials_, arguments));
      connected_ = address_;
      reached_ = absl::Now();
    }
    stub = stub_;
    call_ = &context;
  }
  v1::FetchWaveRequest request;
  request.set_job(key.job);
  request.set_boundary(key.boundary);
  request.set_stream(key.stream);
  request.set_wave(key.wave);
  request.set_offset(have);
  char* out = reinterpret_cast<char*>(values.data());
  const size_t size = values.size_bytes(), before = have;
  const absl::Time asked = absl::Now();
  absl::Duration waited;
  const auto reader = stub->FetchWave(&context, request);
  v1::WaveChunk chunk;
  bool good = true, fits = true;
  while (good && fits && reader->Read(&chunk)) {
    const std::string& data = chunk.data();
    good = chunk.offset() == have && chunk.crc32() == Checksum(data.data(), data.size());
    fits = data.size() <= size - have;
    if (!good || !fits) break;
    std::memcpy(out + have, data.data(), data.size());
    have += data.size();
    waited += absl::Seconds(chunk.waited_seconds());
    waves_.bytes.received += static_cast<int64_t>(data.size());
  }
  if (!good || !fits) context.TryCancel();
  const grpc::Status status = reader->Finish();
  if (have > before) transfer += std::max(absl::ZeroDuration(), absl::Now() - asked - waited);
  {
    const std::lock_guard lock(mutex_);
    call_ = nullptr;
    const bool answered =
        status.ok() || have > before || status.error_code() == grpc::StatusCode::NOT_FOUND;
    if (answered) reached_ = absl::Now();
    if (absl::Now() - reached_ > patience_ && address_ == connected_ && !stop_) {
      return absl::UnavailableError(
          absl::StrCat("a worker cannot reach another one at ", address_,
                       "; check its --listen and --advertise: ", status.error_message()));
    }
  }
  const bool short_wave = status.ok() && have < size && good;
  if (!fits || short_wave || status.error_code() == grpc::StatusCode::OUT_OF_RANGE) {
    return absl::DataLossError("a neighbouring stage has sent a wave of another size");
  }
  if (status.error_code() == grpc::StatusCode::DATA_LOSS) {
    return absl::DataLossError(status.error_message());
  }
  return absl::OkStatus();
}

void RemoteBoundary::SetNeighbour(const std::string& address) {
  const std::lock_guard lock(mutex_);
  if (address == address_) return;
  address_ = address;
  if (call_ != nullptr) call_->TryCancel();
  changed_.notify_all();
}

void RemoteBoundary::Wake() {
  const std::lock_guard lock(mutex_);
  if (call_ != nullptr) call_->TryCancel();
  changed_.notify_all();
}

}  // namespace cvxq
