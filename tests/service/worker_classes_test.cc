// Which workers have a job where they do not all compute the same bits.
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cvxq/v1/worker_service.grpc.pb.h"
#include "service/workers/remote_stages.h"
#include "service/workers/worker_pool.h"

namespace cvxq {
namespace {

// The session of a worker that says who it is and does nothing.
class Registered {
 public:
  Registered(const WorkerPool& pool, v1::Hello hello)
      : stub_(v1::WorkerService::NewStub(grpc::CreateChannel(
            absl::StrCat("127.0.0.1:", pool.port()), grpc::InsecureChannelCredentials()))),
        stream_(stub_->Session(&context_)) {
    const size_t before = pool.workers().size();
    v1::WorkerMessage first;
    *first.mutable_hello() = std::move(hello);
    EXPECT_TRUE(stream_->Write(first));
    while (pool.workers().size() == before) absl::SleepFor(absl::Milliseconds(5));
  }
  ~Registered() {
    context_.TryCancel();
    stream_->Finish().ok();
  }

 private:
  const std::unique_ptr<v1::WorkerService::Stub> stub_;
  grpc::ClientContext context_;
  const std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerMessage, v1::CoordinatorMessage>>
      stream_;
};

v1::Hello Worker(const std::string& id, const Numerics& numerics) {
  v1::Hello hello;
  hello.set_worker(id);
  hello.set_address("127.0.0.1:1");
  hello.set_backend(numerics.backend);
  hello.set_numerics_class(numerics.numerics_class);
  hello.set_fast_bf16(numerics.fast_bf16);
  return hello;
}

std::string ClassOf(const WorkerPool& pool) {
  const std::optional<Numerics> numerics = NumericsOfWorkers(pool);
  if (!numerics) return "";
  EXPECT_EQ(numerics->fast_bf16, numerics->backend == "cuda" || MakeCpuBackend(1)->fast_bf16());
  return numerics->numerics_class;
}

TEST(WorkerClassesTest, TheLargestClassHasTheJob) {
  const auto pool = WorkerPool::Start({});
  ASSERT_TRUE(pool.ok()) << pool.status();
  EXPECT_EQ(ClassOf(**pool), "");

  const Numerics own = NumericsOf(*MakeCpuBackend(1)), card{"cuda", "cuda-sm90-x", true},
                 other{"cuda", "cuda-sm80-x", true};
  const Registered first(**pool, Worker("a", card));
  EXPECT_EQ(ClassOf(**pool), card.numerics_class);
  const Registered second(**pool, Worker("b", own));
  EXPECT_EQ(ClassOf(**pool), own.numerics_class) << "of two that are equal, the coordinator's";
  const Registered third(**pool, Worker("c", card));
  EXPECT_EQ(ClassOf(**pool), card.numerics_class);
  const Registered fourth(**pool, Worker("d", other)), fifth(**pool, Worker("e", other));
  EXPECT_EQ(ClassOf(**pool), other.numerics_class) << "the first by name";
}

}  // namespace
}  // namespace cvxq
