#include "service/workers/worker_pool.h"

#include <grpcpp/server_builder.h>

#include <algorithm>

#include "base/failpoint.h"
#include "service/api/without_reflection.h"
#include "service/log.h"
#include "service/workers/wire.h"

namespace cvxq {
namespace {

constexpr size_t kMostSessions = 1024;

}  // namespace

void WorkerLink::Send(const v1::Command& command) {
  const std::string text = command.SerializeAsString();
  const std::lock_guard lock(mutex_);
  if (lost_) return;
  ForEachPart(text,
              [&](v1::Part part) { *outgoing_.emplace_back().mutable_part() = std::move(part); });
  wake_.notify_all();
}

StatusOr<std::unique_ptr<WorkerPool>> WorkerPool::Start(const WorkerPoolOptions& options) {
  CVXQ_ASSIGN_OR_RETURN(const auto credentials, ServerCredentials(options.listen, options.tls));
  std::unique_ptr<WorkerPool> pool(new WorkerPool);
  pool->settling_ = options.settling;
  grpc::ServerBuilder builder;
  builder.SetOption(std::make_unique<WithoutReflection>());
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddListeningPort(options.listen, credentials, &pool->port_);
  builder.RegisterService(&pool->service_);
  pool->server_ = builder.BuildAndStart();
  if (pool->server_ == nullptr || pool->port_ == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.listen,
                     ": the address is taken or not of this machine, or a certificate is bad"));
  }
  pool->watchdog_ = std::thread([p = pool.get()] { p->Watch(); });
  return pool;
}

WorkerPool::~WorkerPool() {
  if (server_ == nullptr) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const auto& link : sessions_) link->context_->TryCancel();
  }
  stop_.notify_all();
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  if (watchdog_.joinable()) watchdog_.join();
}

std::vector<std::shared_ptr<WorkerLink>> WorkerPool::workers() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<WorkerLink>> result;
  for (const auto& link : sessions_) {
    if (!link->lost_ && !link->hello_.worker().empty()) result.push_back(link);
  }
  return result;
}

absl::Duration WorkerPool::settling() const {
  return std::max(absl::ZeroDuration(), started_ + settling_ - absl::Now());
}

void WorkerPool::Attach(const std::string& job, WorkerListener& listener) {
  const std::lock_guard lock(listeners_mutex_);
  listeners_[job] = &listener;
}

void WorkerPool::Detach(const std::string& job) {
  const std::lock_guard lock(listeners_mutex_);
  listeners_.erase(job);
}

void WorkerPool::TellChange() {
  const std::lock_guard lock(listeners_mutex_);
  for (const auto& [job, listener] : listeners_) listener->OnChange();
}

grpc::Status WorkerPool::Serve(grpc::ServerContext& context, Stream& stream) {
  auto link = std::make_shared<WorkerLink>();
  link->context_ = &context;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return {grpc::StatusCode::UNAVAILABLE, "the coordinator is stopping"};
    if (sessions_.size() >= kMostSessions) {
      return {grpc::StatusCode::RESOURCE_EXHAUSTED, "as many workers as this server takes"};
    }
    sessions_.push_back(link);
  }
  std::thread writer([&] { Write(*link, stream); });
  const grpc::Status status = Read(link, stream);
  {
    const std::lock_guard lock(mutex_);
    std::erase(sessions_, link);
  }
  context.TryCancel();
  {
    const std::lock_guard lock(link->mutex_);
    link->lost_ = true;
    link->outgoing_.clear();
    link->wake_.notify_all();
  }
  writer.join();
  Log(LogLevel::kInfo, "a worker has gone", {{"worker", link->hello_.worker()}});
  TellChange();
  return status;
}

grpc::Status WorkerPool::Read(const std::shared_ptr<WorkerLink>& link, Stream& stream) {
  PartJoiner joiner;
  v1::WorkerMessage message;
  while (stream.Read(&message)) {
    link->heard_.Beat();
    if (message.has_hello()) {
      {
        const std::lock_guard lock(mutex_);
        if (!link->hello_.worker().empty()) break;
        link->hello_ = message.hello();
      }
      Failpoint("pool-hello-heard");
      Log(LogLevel::kInfo, "a worker has come",
          {{"worker", message.hello().worker()}, {"address", message.hello().address()}});
      TellChange();
    }
    if (!message.has_part()) continue;
    const StatusOr<bool> whole = joiner.Add(message.part());
    v1::Report report;
    if (!whole.ok() || (*whole && !report.ParseFromString(joiner.message()))) {
      return {grpc::StatusCode::DATA_LOSS, "a report is damaged"};
    }
    if (!*whole) continue;
    const std::lock_guard lock(listeners_mutex_);
    const auto listener = listeners_.find(report.key().job());
    if (listener != listeners_.end()) listener->second->OnReport(*link, std::move(report));
  }
  return {grpc::StatusCode::ABORTED, "the session has ended"};
}

// Writes what there is, and a beat every second.
void WorkerPool::Write(WorkerLink& link, Stream& stream) {
  std::unique_lock lock(link.mutex_);
  auto next_beat = std::chrono::steady_clock::now();
  while (!link.lost_) {
    link.wake_.wait_until(lock, next_beat, [&] { return link.lost_ || !link.outgoing_.empty(); });
    if (link.lost_) return;
    v1::CoordinatorMessage message;
    if (!link.outgoing_.empty()) {
      message = std::move(link.outgoing_.front());
      link.outgoing_.pop_front();
    } else {
      message.mutable_beat();
      next_beat = std::chrono::steady_clock::now() + kBeat;
    }
    lock.unlock();
    Failpoint("pool-before-write");
    const bool written = stream.Write(message);
    lock.lock();
    if (!written) return;
  }
}

// Gives up workers that are silent.
void WorkerPool::Watch() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    for (const auto& link : sessions_) {
      if (link->heard_.silence() > kCoordinatorPatience) link->context_->TryCancel();
    }
    stop_.wait_for(lock, std::chrono::milliseconds(100));
  }
}

}  // namespace cvxq
