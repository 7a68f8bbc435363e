#include "service/workers/worker.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <deque>

#include "absl/time/clock.h"
#include "base/failpoint.h"
#include "base/interrupt.h"
#include "kernels/backend.h"
#include "service/api/without_reflection.h"
#include "service/log.h"
#include "service/uuid.h"
#include "service/workers/lease.h"

namespace cvxq {
namespace {

constexpr int64_t kWaveMemory = int64_t{256} << 20;  // of each job, where no limit is given
constexpr absl::Duration kReconnect = absl::Milliseconds(300);

}  // namespace

// From one Hello to the loss of the coordinator.
class Worker::Session {
 public:
  Session(Worker& worker, v1::WorkerService::Stub& stub)
      : worker_(worker), stream_(stub.Session(&context_)) {}

  // Returns when the coordinator is lost, or the process told to end.
  grpc::Status Run() {
    v1::WorkerMessage first;
    v1::Hello& hello = *first.mutable_hello();
    hello.set_worker(NewUuid());
    hello.set_address(worker_.address_);
    hello.set_numerics_class(worker_.numerics_.numerics_class);
    hello.set_backend(worker_.numerics_.backend);
    hello.set_fast_bf16(worker_.numerics_.fast_bf16);
    Push(std::move(first));
    std::thread writer([this] { Write(); });
    std::thread watchdog([this] { Watch(); });
    v1::CoordinatorMessage message;
    WorkerMetrics* const metrics = worker_.options_.resources.metrics;
    bool known = false;
    while (stream_->Read(&message)) {
      heard_.Beat();
      if (!std::exchange(known, true)) {
        Log(LogLevel::kInfo, "registered", {{"coordinator", worker_.options_.coordinator}});
        if (metrics != nullptr) metrics->Registered();
      }
      if (message.has_part() && !Take(message.part())) break;
    }
    if (metrics != nullptr) metrics->Unregistered();
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
      wake_.notify_all();
    }
    context_.TryCancel();
    for (const auto& stage : stages_) stage->Stop();
    writer.join();
    watchdog.join();
    stages_.clear();
    stopped_.clear();
    return stream_->Finish();
  }

 private:
  void Push(v1::WorkerMessage message) {
    const std::lock_guard lock(mutex_);
    outgoing_.push_back(std::move(message));
    wake_.notify_all();
  }

  // A report goes out in one piece: parts of two never mix.
  void Send(const v1::Report& report) {
    const std::string text = report.SerializeAsString();
    const std::lock_guard lock(mutex_);
    ForEachPart(text,
                [&](v1::Part part) { *outgoing_.emplace_back().mutable_part() = std::move(part); });
    wake_.notify_all();
  }

  // Writes what there is, and a beat every second.
  void Write() {
    std::unique_lock lock(mutex_);
    auto next_beat = std::chrono::steady_clock::now();
    while (!ended_) {
      wake_.wait_until(lock, next_beat, [&] { return ended_ || !outgoing_.empty(); });
      if (ended_) return;
      v1::WorkerMessage message;
      if (!outgoing_.empty()) {
        message = std::move(outgoing_.front());
        outgoing_.pop_front();
      } else {
        message.mutable_beat();
        next_beat = std::chrono::steady_clock::now() + kBeat;
      }
      lock.unlock();
      Failpoint("worker-before-write");
      const bool written = stream_->Write(message);
      if (message.has_hello()) Failpoint("worker-hello-sent");
      lock.lock();
      if (!written) return;
    }
  }

  // Gives up work that the coordinator may have given to another.
  void Watch() {
    std::unique_lock lock(mutex_);
    while (!ended_) {
      wake_.wait_for(lock, std::chrono::milliseconds(100), [&] { return ended_; });
      if (!ended_ && (Interrupted() || heard_.silence() > kWorkerPatience)) context_.TryCancel();
    }
  }

  // False where the coordinator cannot be understood.
  bool Take(const v1::Part& part) {
    const StatusOr<bool> whole = joiner_.Add(part);
    if (!whole.ok()) {
      Log(LogLevel::kError, std::string(whole.status().message()));
      return false;
    }
    if (!*whole) return true;
    v1::Command command;
    if (!command.ParseFromString(joiner_.message())) return false;
    Failpoint("worker-command-read");
    Dispatch(std::move(command));
    return true;
  }

  void Dispatch(v1::Command command) {
    std::erase_if(stopped_, [](const auto& stage) { return stage->finished(); });
    const v1::StageKey key = command.key();
    if (command.has_release()) {
      End([&](const v1::StageKey& other) { return other.job() == key.job(); });
      worker_.waves_.Drop(key.job());
      return;
    }
    if (command.has_committed()) {
      worker_.waves_.Forget(
          key.job(), {.step = command.committed().step(), .waves = command.committed().waves()});
      Failpoint("worker-waves-forgotten");
      return;
    }
    if (command.has_start()) {
      End([&](const v1::StageKey& other) {
        return other.job() == key.job() && other.stage() == key.stage();
      });
      stages_.push_back(std::make_unique<WorkerStage>(
          std::move(command), worker_.waves_, worker_.options_.resources, worker_.credentials_,
          [this](const v1::Report& report) { Send(report); }));
      return;
    }
    for (const auto& stage : stages_) {
      if (stage->key().job() == key.job() && stage->key().stage() == key.stage() &&
          stage->key().attempt() == key.attempt()) {
        stage->Add(std::move(command));
        return;
      }
    }
  }

  // Stops stages without waiting for them.
  template <typename Which>
  void End(const Which& which) {
    for (auto& stage : stages_) {
      if (!which(stage->key())) continue;
      stage->Stop();
      stopped_.push_back(std::move(stage));
    }
    std::erase(stages_, nullptr);
  }

  Worker& worker_;
  grpc::ClientContext context_;
  const std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerMessage, v1::CoordinatorMessage>>
      stream_;
  Lease heard_;
  PartJoiner joiner_;
  std::mutex mutex_;  // of the three below
  std::condition_variable wake_;
  std::deque<v1::WorkerMessage> outgoing_;
  bool ended_ = false;
  std::vector<std::unique_ptr<WorkerStage>> stages_, stopped_;
};

Worker::Worker(WorkerOptions options)
    : options_(std::move(options)),
      waves_(options_.resources.spill_folder,
             options_.resources.memory > 0 ? options_.resources.memory / 2 : kWaveMemory),
      transport_(waves_) {}

StatusOr<std::unique_ptr<Worker>> Worker::Start(WorkerOptions options) {
  std::unique_ptr<Worker> worker(new Worker(std::move(options)));
  const WorkerOptions& given = worker->options_;
  CVXQ_ASSIGN_OR_RETURN(const auto server_credentials, ServerCredentials(given.listen, given.tls));
  worker->credentials_ = ClientCredentials(given.tls);
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend,
                        MakeBackend(given.resources.backend, 1));
  worker->numerics_ = NumericsOf(*backend);
  int port = 0;
  grpc::ServerBuilder builder;
  builder.SetOption(std::make_unique<WithoutReflection>());
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddListeningPort(given.listen, server_credentials, &port);
  builder.RegisterService(&worker->transport_);
  worker->server_ = builder.BuildAndStart();
  if (worker->server_ == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", given.listen,
                     ": the address is taken or not of this machine, or a certificate is bad"));
  }
  worker->address_ = !given.advertise.empty()
                         ? given.advertise
                         : absl::StrCat(given.listen.substr(0, given.listen.rfind(':')), ":", port);
  return worker;
}

Worker::~Worker() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

void Worker::Run() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
  const auto stub = v1::WorkerService::NewStub(
      grpc::CreateCustomChannel(options_.coordinator, credentials_, arguments));
  std::string last;
  while (!Interrupted()) {
    const grpc::Status status = Session(*this, *stub).Run();
    waves_.Clear();
    if (Interrupted()) return;
    if (status.error_message() != last) {  // said once, not at every attempt
      last = status.error_message();
      Log(LogLevel::kWarning, "no coordinator: " + last, {{"coordinator", options_.coordinator}});
    }
    absl::SleepFor(kReconnect);
  }
}

}  // namespace cvxq
