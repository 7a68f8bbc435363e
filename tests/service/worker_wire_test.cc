// What passes between coordinator and workers: messages in parts, answers, waves.
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <thread>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "service/workers/stage_times.h"
#include "service/workers/waves.h"
#include "service/workers/wire.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

std::vector<v1::Part> PartsOf(const std::string& message) {
  std::vector<v1::Part> parts;
  ForEachPart(message, [&](v1::Part part) { parts.push_back(std::move(part)); });
  return parts;
}

TEST(PartsTest, JoinToWhatWasCut) {
  PartJoiner joiner;
  for (const size_t size : {size_t{0}, size_t{1}, kPartBytes, kPartBytes + 1, 3 * kPartBytes}) {
    std::string message(size, '\0');
    std::iota(message.begin(), message.end(), '\0');
    const std::vector<v1::Part> parts = PartsOf(message);
    EXPECT_EQ(parts.size(), std::max<size_t>(1, (size + kPartBytes - 1) / kPartBytes));
    for (size_t i = 0; i < parts.size(); ++i) {
      const auto whole = joiner.Add(parts[i]);
      ASSERT_TRUE(whole.ok()) << whole.status();
      EXPECT_EQ(*whole, i + 1 == parts.size());
    }
    EXPECT_EQ(joiner.message(), message);
  }
}

TEST(PartsTest, DamageIsSeen) {
  const std::vector<v1::Part> parts = PartsOf(std::string(2 * kPartBytes, 'x'));
  const auto refused = [](const std::vector<v1::Part>& given) {
    PartJoiner joiner;
    Status status;
    for (const v1::Part& part : given) {
      if (status.ok()) status = joiner.Add(part).status();
    }
    return absl::IsDataLoss(status);
  };
  EXPECT_FALSE(refused(parts));
  EXPECT_TRUE(refused({parts[1]}));
  EXPECT_TRUE(refused({parts[0], parts[0]}));
  v1::Part part = parts[0];
  (*part.mutable_data())[7] = 'y';
  EXPECT_TRUE(refused({part}));
  part = parts[0];
  part.set_size(5);
  EXPECT_TRUE(refused({part}));
  part = parts[0];
  part.set_size(uint64_t{1} << 40);
  EXPECT_TRUE(refused({part}));
  part.Clear();
  part.set_size(5);  // would wait for more without end
  EXPECT_TRUE(refused({part}));
}

TEST(WireTest, AnswersComeBackAsTheyWere) {
  EntropyAnswer answer;
  answer.linears = {{3, 1000, 0.25}, {4, int64_t{1} << 40, -1.0 / 3}};
  answer.counts.Set(0, 7);
  answer.counts.Set(answer.counts.all().size() - 1, uint64_t{1} << 50);
  answer.histograms.resize(2);
  answer.histograms[1].Set(5, 0.1);
  v1::StageAnswer proto;
  ASSERT_TRUE(proto.ParseFromString(ToProto(answer).SerializeAsString()));
  const auto back = FromProto(proto);
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->linears.size(), 2);
  EXPECT_EQ(back->linears[1].plan, 4);
  EXPECT_EQ(back->linears[1].bytes, int64_t{1} << 40);
  EXPECT_EQ(back->linears[1].class_shift, -1.0 / 3);
  EXPECT_TRUE(std::ranges::equal(back->counts.all(), answer.counts.all()));
  ASSERT_EQ(back->histograms.size(), 2);
  EXPECT_TRUE(std::ranges::equal(back->histograms[1].bins(), answer.histograms[1].bins()));

  v1::StageAnswer bad = proto;
  bad.set_count_places(0, 1 << 30);
  EXPECT_TRUE(absl::IsDataLoss(FromProto(bad).status()));
  bad = proto;
  bad.mutable_counts()->RemoveLast();
  EXPECT_TRUE(absl::IsDataLoss(FromProto(bad).status()));
  bad = proto;
  bad.mutable_histograms(1)->set_places(0, 1 << 30);
  EXPECT_TRUE(absl::IsDataLoss(FromProto(bad).status()));
}

TEST(WavesTest, AreKeptUntilTheJobEnds) {
  ScratchFolder scratch;
  Waves waves(scratch.path(), /*memory=*/10 * sizeof(float));
  const WaveKey first{"job", 0, 1, 2}, second{"job", 0, 1, 3}, other{"other", 0, 1, 2};
  EXPECT_TRUE(absl::IsUnavailable(waves.Get(first, absl::ZeroDuration()).status()));
  std::vector<float> values(8);
  std::iota(values.begin(), values.end(), 0.5f);
  std::thread late([&] { ASSERT_EQ(waves.Put(first, values), absl::OkStatus()); });
  const auto came = waves.Get(first, absl::Seconds(30));
  late.join();
  ASSERT_TRUE(came.ok()) << came.status();
  EXPECT_EQ(*came, values);
  ASSERT_EQ(waves.Put(second, values), absl::OkStatus());  // goes to disk
  ASSERT_EQ(waves.Put(other, values), absl::OkStatus());
  EXPECT_EQ(*waves.Get(second, absl::ZeroDuration()), values);
  // Sent again by a stage that began anew: nothing changes.
  ASSERT_EQ(waves.Put(first, std::vector<float>(8, -1.0f)), absl::OkStatus());
  EXPECT_EQ(*waves.Get(first, absl::ZeroDuration()), values);
  waves.Drop("job");
  EXPECT_TRUE(absl::IsUnavailable(waves.Get(first, absl::ZeroDuration()).status()));
  EXPECT_EQ(*waves.Get(other, absl::ZeroDuration()), values);
}

// A transport of this process, and a boundary that reads from it.
class TransportTest : public testing::Test {
 protected:
  TransportTest() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  ScratchFolder scratch_;
  Waves waves_{scratch_.path(), 1 << 20}, own_{scratch_.path(), 1 << 20};
  TransportService service_{waves_};
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::atomic<bool> stop_ = false;
  StageTimes times_;
  RemoteBoundary boundary_{"job",
                           4,
                           own_,
                           stop_,
                           grpc::InsecureChannelCredentials(),
                           /*patience=*/absl::Milliseconds(200),
                           &times_};
};

TEST_F(TransportTest, WavesOfManyChunksArriveWhole) {
  std::vector<float> values((3 * kPartBytes + 12) / sizeof(float)), received(values.size());
  std::iota(values.begin(), values.end(), 0.0f);
  boundary_.SetNeighbour(address());
  // It is asked for before it is there, for longer than patience lasts.
  std::thread late([&] {
    absl::SleepFor(absl::Milliseconds(700));
    ASSERT_EQ(waves_.Put({"job", 4, 1, 9}, values), absl::OkStatus());
  });
  EXPECT_EQ(boundary_.Receive(StageBoundary::Stream::kBackward, 9, received), absl::OkStatus());
  late.join();
  EXPECT_EQ(received, values);
  // Waiting and transfer are told apart.
  EXPECT_EQ(times_.of(StageTask::kTransfer).count, 1);
  EXPECT_EQ(times_.of(StageTask::kWaiting).count, 1);
  EXPECT_GT(times_.of(StageTask::kTransfer).seconds, 0);
  EXPECT_GT(times_.of(StageTask::kWaiting).seconds, 0);
  v1::Report::Done done;
  ToProto(times_, done);
  ASSERT_EQ(done.times_size(), 2);
  EXPECT_EQ(done.times(0).task(), "waiting");
  EXPECT_EQ(done.times(1).seconds(), times_.of(StageTask::kTransfer).seconds);
  std::vector<float> more(values.size() + 1), fewer(values.size() - 1);
  EXPECT_TRUE(absl::IsDataLoss(boundary_.Receive(StageBoundary::Stream::kBackward, 9, more)));
  EXPECT_TRUE(absl::IsDataLoss(boundary_.Receive(StageBoundary::Stream::kBackward, 9, fewer)));
}

TEST_F(TransportTest, ANeighbourOutOfReachIsTold) {
  server_->Shutdown();
  boundary_.SetNeighbour(address());
  std::vector<float> values(5);
  const Status status = boundary_.Receive(StageBoundary::Stream::kForward, 0, values);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_NE(status.message().find(address()), absl::string_view::npos) << status;
}

TEST_F(TransportTest, AWaitEndsWhenTheStageIsStopped) {
  std::vector<float> values(5);
  for (const bool known : {false, true}) {
    stop_ = false;
    if (known) boundary_.SetNeighbour(address());
    std::thread stopper([&] {
      absl::SleepFor(absl::Milliseconds(50));
      stop_ = true;
      boundary_.Wake();
    });
    EXPECT_TRUE(absl::IsAborted(boundary_.Receive(StageBoundary::Stream::kForward, 0, values)));
    stopper.join();
  }
  EXPECT_TRUE(absl::IsAborted(boundary_.Send(StageBoundary::Stream::kForward, 0, values)));
}

}  // namespace
}  // namespace cvxq
