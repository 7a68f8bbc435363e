// Jobs on a log: replay, lost replies, fencing, compaction, and watches that lose and repeat
// nothing.
#include "service/job_store.h"

#include <atomic>
#include <thread>

#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "service/errors.h"
#include "service/log.h"
#include "tests/service/memory_store.h"

namespace cvxq {
namespace {

using google::protobuf::util::MessageDifferencer;
using Kind = JobInput::Kind;

constexpr absl::Duration kLong = absl::Seconds(30);

std::string Name(const std::string& id) { return "projects/p/quantizeModelJobs/" + id; }

Job Accepted(const std::string& id) {
  Job job;
  job.set_name(Name(id));
  job.set_uid("0123456789");
  return job;
}

JobInput Input(Kind kind, int32_t attempt, int32_t percent = 0) {
  JobInput input{.kind = kind, .attempt = attempt};
  input.progress.set_percent(percent);
  input.log.set_text("line");
  return input;
}

class JobStoreTest : public testing::Test {
 protected:
  JobStoreTest() {
    SetLogSink([](std::string_view) {});
  }
  ~JobStoreTest() override { SetLogSink(nullptr); }

  std::unique_ptr<JobStore> Open(JobStoreOptions options = {}) {
    auto jobs = JobStore::Open(store_, std::move(options));
    EXPECT_TRUE(jobs.ok()) << jobs.status();
    return *std::move(jobs);
  }
  // Every event from `after` until the job has ended.
  static std::vector<v1::JobEvent> All(JobStore& jobs, const std::string& name, int64_t after) {
    std::vector<v1::JobEvent> events;
    auto watch = jobs.Watch(name, after);
    if (!watch.ok()) return events;
    for (;;) {
      auto event = (*watch)->Next(kLong);
      if ((*watch)->ended()) return events;
      EXPECT_TRUE(event.ok()) << event.status();
      if (!event.ok() || !event->has_value()) return events;
      events.push_back(**event);
    }
  }
  static void Finish(JobStore& jobs, const std::string& name) {
    EXPECT_TRUE(jobs.Apply(name, Input(Kind::kPublish, 1)).ok());
    EXPECT_TRUE(jobs.Apply(name, Input(Kind::kSucceed, 1)).ok());
  }
  static void Begin(JobStore& jobs, const std::string& name) {
    EXPECT_TRUE(jobs.Apply(name, Input(Kind::kStart, 1)).ok());
    EXPECT_TRUE(jobs.Apply(name, Input(Kind::kRun, 1)).ok());
  }

  MemoryStore store_;
};

TEST_F(JobStoreTest, ReplaysWhatItHad) {
  Job before;
  {
    auto jobs = Open();
    ASSERT_TRUE(jobs->Create(Accepted("a"), "", "").ok());
    ASSERT_TRUE(jobs->Create(Accepted("b"), "", "").ok());
    Begin(*jobs, Name("a"));
    before = **jobs->Get(Name("a"));
  }
  auto jobs = Open();
  EXPECT_TRUE(MessageDifferencer::Equals(**jobs->Get(Name("a")), before));
  EXPECT_EQ((*jobs->Get(Name("b")))->state(), Job::QUEUED);
  EXPECT_EQ(ReasonOf(jobs->Get(Name("c")).status()), reason::kJobNotFound);
  EXPECT_EQ(jobs->CountByState(),
            (std::map<Job::State, int64_t>{{Job::QUEUED, 1}, {Job::RUNNING, 1}}));
}

TEST_F(JobStoreTest, ADamagedLogCostsThatJobAlone) {
  {
    auto jobs = Open();
    for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(jobs->Create(Accepted(id), "", "").ok());
  }
  store_.Damage(Name("b"), 0, "\xff\xff");
  auto jobs = Open();
  EXPECT_EQ(jobs->damaged().size(), 1u);
  EXPECT_TRUE(jobs->Get(Name("a")).ok());
  EXPECT_TRUE(jobs->Get(Name("c")).ok());
  EXPECT_EQ(ReasonOf(jobs->Get(Name("b")).status()), reason::kJobDamaged);
  EXPECT_EQ(ReasonOf(jobs->Create(Accepted("b"), "", "").status()), reason::kJobExists);
}

TEST_F(JobStoreTest, OneRequestIdIsOneJob) {
  auto jobs = Open();
  for (int i = 0; i < 3; ++i) {
    auto created = jobs->Create(Accepted("a" + std::to_string(i)), "request", "digest");
    ASSERT_TRUE(created.ok()) << created.status();
    EXPECT_EQ(created->job->name(), Name("a0"));
    EXPECT_EQ(created->created, i == 0);
    EXPECT_EQ(created->actions.empty(), i != 0);
  }
  const Status reused = jobs->Create(Accepted("b"), "request", "other").status();
  EXPECT_EQ(reused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(reused), reason::kRequestIdReused);
}

TEST_F(JobStoreTest, CallsAtOnceWithOneRequestIdHandTheJobOutOnce) {
  auto jobs = Open();
  for (int round = 0; round < 100; ++round) {
    const std::string request = "r" + std::to_string(round);
    std::atomic<int> created = 0, handed_out = 0;
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 3; ++caller) {
      callers.emplace_back([&, caller] {
        const auto result =
            jobs->Create(Accepted(request + "-" + std::to_string(caller)), request, "");
        ASSERT_TRUE(result.ok()) << result.status();
        created += result->created ? 1 : 0;
        handed_out += result->actions.empty() ? 0 : 1;
      });
    }
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(created, 1);
    EXPECT_EQ(handed_out, 1);
  }
  EXPECT_EQ(jobs->CountByState()[Job::QUEUED], 100);
}

TEST_F(JobStoreTest, WritesWhoseRepliesAreLostHappenOnce) {
  auto jobs = Open();
  store_.LoseReplies(2);
  const auto insist = [](const auto& call) {
    for (;;) {
      auto result = call();
      if (!absl::IsUnavailable(result.status())) return result;
    }
  };
  for (int i = 0; i < 20; ++i) {
    const std::string id = "j" + std::to_string(i);
    const auto created = insist([&] { return jobs->Create(Accepted(id), id, ""); });
    ASSERT_TRUE(created.ok()) << created.status();
    // New to this process in exactly one of the answers, so that it is handed out once.
    EXPECT_FALSE(created->actions.empty());
    for (const Kind kind : {Kind::kStart, Kind::kRun, Kind::kPublish, Kind::kSucceed}) {
      const auto step = insist([&] { return jobs->Apply(Name(id), Input(kind, 1)); });
      ASSERT_TRUE(step.ok()) << step.status();
    }
    EXPECT_EQ((*jobs->Get(Name(id)))->state(), Job::SUCCEEDED);
    EXPECT_EQ(store_.size(Name(id)), 5);
  }
}

TEST_F(JobStoreTest, ARequestIdAnswersThirtyDaysAfterItsJobWasDeleted) {
  absl::Time now = absl::FromUnixSeconds(1'000'000'000);
  JobStoreOptions options;
  options.clock = [&now] { return now; };
  auto jobs = Open(options);
  ASSERT_TRUE(jobs->Create(Accepted("a"), "request", "digest").ok());
  ASSERT_TRUE(jobs->Create(Accepted("kept"), "another", "digest").ok());
  ASSERT_TRUE(jobs->Apply(Name("a"), {.kind = Kind::kCancel}).ok());
  ASSERT_TRUE(jobs->Delete(Name("a"), "").ok());
  for (const absl::Duration later :
       {absl::ZeroDuration(), absl::Hours(30 * 24) - absl::Seconds(1)}) {
    const absl::Time deleted = now;
    now += later;
    jobs.reset();
    jobs = Open(options);
    const Status status = jobs->Create(Accepted("b"), "request", "digest").status();
    EXPECT_EQ(ReasonOf(status), reason::kJobNotFound);
    EXPECT_NE(status.message().find(Name("a")), std::string::npos) << status;
    EXPECT_EQ(ReasonOf(jobs->Create(Accepted("b"), "request", "other").status()),
              reason::kRequestIdReused);
    EXPECT_EQ((*jobs->Create(Accepted("b"), "another", "digest")).job->name(), Name("kept"));
    now = deleted;
  }
  EXPECT_EQ(store_.ListLogs("deleted/", "", 10)->size(), 1u);
  // The name is free at once, the request id after 30 days.
  ASSERT_TRUE(jobs->Create(Accepted("a"), "", "").ok());
  now += absl::Hours(30 * 24);
  EXPECT_TRUE(jobs->Create(Accepted("b"), "request", "digest")->created);
  jobs.reset();
  jobs = Open(options);
  EXPECT_EQ(store_.ListLogs("deleted/", "", 10)->size(), 0u);
  EXPECT_FALSE(jobs->Create(Accepted("c"), "request", "digest")->created);
}

// Every state that the store may go back to; one that lives on loses nothing.
TEST_F(JobStoreTest, AStoreThatWentBackIsWrittenAgain) {
  for (const int remember_at : {0, 1, 2, 3, 4, 5}) {
    SCOPED_TRACE(remember_at);
    store_.Clear();
    int step = 0;
    const auto remember = [&] {
      if (++step == remember_at) store_.Remember();
    };
    auto jobs = Open();
    remember();
    ASSERT_TRUE(jobs->Create(Accepted("gone"), "r-gone", "d").ok());
    ASSERT_TRUE(jobs->Create(Accepted("a"), "r-a", "d").ok());
    remember();
    Begin(*jobs, Name("a"));
    ASSERT_TRUE(jobs->Apply(Name("gone"), {.kind = Kind::kCancel}).ok());
    remember();
    ASSERT_TRUE(jobs->Delete(Name("gone"), "").ok());
    ASSERT_TRUE(jobs->Create(Accepted("b"), "", "").ok());
    remember();
    ASSERT_TRUE(jobs->Apply(Name("a"), Input(Kind::kProgress, 1, 50)).ok());
    remember();
    auto watch = *jobs->Watch(Name("a"), 4);
    EXPECT_TRUE((**watch->Next(kLong)).has_bookmark());
    const Job before = **jobs->Get(Name("a"));
    store_.GoBack();

    // Nothing is written to what is left, and nothing is lost of what can be read.
    EXPECT_EQ(ReasonOf(jobs->Create(Accepted("c"), "r-c", "d").status()),
              reason::kStoreUnavailable);
    EXPECT_EQ(ReasonOf(jobs->Apply(Name("a"), Input(Kind::kProgress, 1, 60)).status()),
              reason::kStoreUnavailable);
    EXPECT_TRUE(MessageDifferencer::Equals(**jobs->Get(Name("a")), before));
    const int64_t old_epoch = jobs->epoch();
    ASSERT_TRUE(jobs->KeepEpoch().ok());
    EXPECT_GT(jobs->epoch(), old_epoch);
    ASSERT_TRUE(jobs->KeepEpoch().ok());

    // The watch goes on, with the next revision.
    ASSERT_TRUE(jobs->Apply(Name("a"), Input(Kind::kProgress, 1, 70)).ok());
    EXPECT_EQ((**watch->Next(kLong)).revision(), 5);
    EXPECT_FALSE(jobs->Create(Accepted("c"), "r-a", "d")->created);
    EXPECT_EQ(ReasonOf(jobs->Create(Accepted("c"), "r-gone", "d").status()), reason::kJobNotFound);

    // And the next coordinator finds all of it.
    watch.reset();
    jobs.reset();
    jobs = Open();
    EXPECT_EQ((*jobs->Get(Name("a")))->revision(), 5);
    EXPECT_EQ((*jobs->Get(Name("a")))->progress().percent(), 70);
    EXPECT_EQ((*jobs->Get(Name("b")))->state(), Job::QUEUED);
    EXPECT_EQ(ReasonOf(jobs->Get(Name("gone")).status()), reason::kJobNotFound);
    EXPECT_FALSE(jobs->Create(Accepted("c"), "r-a", "d")->created);
    EXPECT_EQ(ReasonOf(jobs->Create(Accepted("c"), "r-gone", "d").status()), reason::kJobNotFound);
  }
}

TEST_F(JobStoreTest, WhatIsStillThereIsLeftAsItIs) {
  auto jobs = Open();
  ASSERT_TRUE(jobs->Create(Accepted("a"), "", "").ok());
  ASSERT_TRUE(jobs->Create(Accepted("b"), "", "").ok());
  Begin(*jobs, Name("a"));
  store_.Remember();
  Begin(*jobs, Name("b"));
  store_.GoBack();
  ASSERT_TRUE(jobs->KeepEpoch().ok());
  EXPECT_EQ(store_.size(Name("a")), 3);  // with all its events
  EXPECT_EQ(store_.size(Name("b")), 1);  // a snapshot
  EXPECT_EQ(ReasonOf((*jobs->Watch(Name("b"), 1))->Next(kLong).status()),
            reason::kRevisionCompacted);
  EXPECT_EQ((**(*jobs->Watch(Name("b"), 0))->Next(kLong)).snapshot().revision(), 3);
}

TEST_F(JobStoreTest, RestoringIsRepeatedUntilItIsDone) {
  auto jobs = Open();
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(jobs->Create(Accepted("j" + std::to_string(i)), "", "").ok());
  }
  store_.GoBack();
  store_.LoseReplies(3);
  int tries = 0;
  for (Status status = absl::UnavailableError(""); !status.ok(); ++tries) {
    if (tries > 0) {
      EXPECT_EQ(ReasonOf(jobs->Create(Accepted("x"), "", "").status()), reason::kStoreUnavailable);
    }
    status = jobs->KeepEpoch();
    ASSERT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
    ASSERT_LT(tries, 10);
  }
  EXPECT_GT(tries, 1);
  store_.LoseReplies(0);
  jobs = Open();
  EXPECT_EQ(jobs->CountByState()[Job::QUEUED], 5);
}

TEST_F(JobStoreTest, WhoComesFirstAfterALossHasTheStore) {
  auto old = Open();
  ASSERT_TRUE(old->Create(Accepted("a"), "", "").ok());
  store_.GoBack();
  auto young = Open();
  EXPECT_EQ(ReasonOf(old->KeepEpoch()), reason::kNotLeader);
  EXPECT_EQ(ReasonOf(old->Create(Accepted("b"), "", "").status()), reason::kNotLeader);
  EXPECT_TRUE(young->KeepEpoch().ok());
}

TEST_F(JobStoreTest, AnotherCoordinatorFencesThisOne) {
  auto old = Open();
  ASSERT_TRUE(old->Create(Accepted("a"), "", "").ok());
  EXPECT_TRUE(old->KeepEpoch().ok());
  auto young = Open();
  EXPECT_EQ(ReasonOf(old->KeepEpoch()), reason::kNotLeader);
  for (const Status& status : {old->Create(Accepted("b"), "", "").status(),
                               old->Apply(Name("a"), {.kind = Kind::kCancel}).status(),
                               old->Apply(Name("a"), Input(Kind::kStart, 1)).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(ReasonOf(status), reason::kNotLeader);
  }
  EXPECT_TRUE(young->KeepEpoch().ok());
  EXPECT_TRUE(young->Apply(Name("a"), Input(Kind::kStart, 1)).ok());
}

TEST_F(JobStoreTest, DeletesWhatHasEnded) {
  auto jobs = Open();
  ASSERT_TRUE(jobs->Create(Accepted("a"), "r", "").ok());
  EXPECT_EQ(ReasonOf(jobs->Delete(Name("a"), "")), reason::kJobNotEnded);
  ASSERT_TRUE(jobs->Apply(Name("a"), {.kind = Kind::kCancel}).ok());
  EXPECT_EQ(ReasonOf(jobs->Delete(Name("a"), "another etag")), reason::kJobChanged);
  EXPECT_TRUE(jobs->Delete(Name("a"), (*jobs->Get(Name("a")))->etag()).ok());
  EXPECT_EQ(ReasonOf(jobs->Delete(Name("a"), "")), reason::kJobNotFound);
  EXPECT_TRUE(jobs->Create(Accepted("a"), "r2", "another").ok());
}

TEST_F(JobStoreTest, ListsPageByPage) {
  auto jobs = Open();
  for (int i = 10; i < 35; ++i) {
    ASSERT_TRUE(jobs->Create(Accepted("j" + std::to_string(i)), "", "").ok());
  }
  std::string after;
  std::vector<std::string> seen;
  do {
    const JobPage page = jobs->List("projects/p/quantizeModelJobs/", after, 7,
                                    [](const Job& job) { return job.name().back() != '3'; });
    EXPECT_LE(page.jobs.size(), 7u);
    for (const auto& job : page.jobs) seen.push_back(job->name());
    after = page.next_after;
  } while (!after.empty());
  EXPECT_EQ(seen.size(), 25u - 3);  // without j13, j23 and j33
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_TRUE(jobs->List("projects/q/quantizeModelJobs/", "", 7, [](const Job&) { return true; })
                  .jobs.empty());
}

TEST_F(JobStoreTest, WatchTellsEverythingOnceFromAnyRevision) {
  auto jobs = Open();
  ASSERT_TRUE(jobs->Create(Accepted("a"), "", "").ok());
  Begin(*jobs, Name("a"));
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(
        jobs->Apply(Name("a"), Input(i % 3 == 0 ? Kind::kLog : Kind::kProgress, 1, i)).ok());
  }
  Finish(*jobs, Name("a"));
  const int64_t last = (*jobs->Get(Name("a")))->revision();
  ASSERT_EQ(last, 25);
  for (int64_t after = 0; after <= last; ++after) {
    const std::vector<v1::JobEvent> events = All(*jobs, Name("a"), after);
    int64_t expected = after;
    int bookmarks = 0;
    for (const v1::JobEvent& event : events) {
      if (event.has_bookmark()) {
        ++bookmarks;
      } else {
        EXPECT_EQ(event.revision(), ++expected);
        if (!event.has_snapshot()) continue;
        EXPECT_EQ(event.snapshot().revision(), expected);
      }
    }
    EXPECT_EQ(expected, last);
    EXPECT_EQ(bookmarks, 1);
  }
  EXPECT_EQ(ReasonOf(jobs->Watch(Name("a"), last + 1).status()), reason::kRevisionUnknown);
  EXPECT_EQ(ReasonOf(jobs->Watch(Name("b"), 0).status()), reason::kJobNotFound);
}

// Watchers that come, go and are slow, while the job goes on.
TEST_F(JobStoreTest, ManyWatchersLoseAndRepeatNothing) {
  auto jobs = Open({.watch_queue = 4});
  ASSERT_TRUE(jobs->Create(Accepted("a"), "", "").ok());
  constexpr int kReports = 150, kWatchers = 24;
  std::vector<std::vector<int64_t>> seen(kWatchers);
  std::vector<std::thread> watchers;
  for (int w = 0; w < kWatchers; ++w) {
    watchers.emplace_back([&, w] {
      int64_t last = 0;
      bool ended = false;
      while (!ended) {
        auto watch = jobs->Watch(Name("a"), last);
        ASSERT_TRUE(watch.ok()) << watch.status();
        // A few events, and it disconnects; some of the watchers stay.
        for (int i = 0; w % 3 == 0 || i < 5 + w; ++i) {
          auto event = (*watch)->Next(kLong);
          ended = (*watch)->ended();
          if (ended) break;
          ASSERT_TRUE(event.ok()) << event.status();
          ASSERT_TRUE(event->has_value());
          if ((*event)->has_bookmark()) continue;
          last = (*event)->revision();
          seen[w].push_back(last);
          if (w % 4 == 0 && i % 16 == 0) std::this_thread::yield();
        }
      }
    });
  }
  Begin(*jobs, Name("a"));
  for (int i = 0; i < kReports; ++i) {
    ASSERT_TRUE(jobs->Apply(Name("a"), Input(Kind::kProgress, 1, i)).ok());
  }
  Finish(*jobs, Name("a"));
  for (std::thread& watcher : watchers) watcher.join();
  std::vector<int64_t> all;
  for (int64_t i = 1; i <= kReports + 5; ++i) all.push_back(i);
  for (const auto& of_one : seen) EXPECT_EQ(of_one, all);
}

TEST_F(JobStoreTest, CompactionBoundsTheLogAndWatchersAreTold) {
  auto jobs = Open({.most_records = 20, .kept_records = 8});
  ASSERT_TRUE(jobs->Create(Accepted("a"), "", "").ok());
  Begin(*jobs, Name("a"));
  auto lazy = jobs->Watch(Name("a"), 2);
  ASSERT_TRUE(lazy.ok());
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(jobs->Apply(Name("a"), Input(Kind::kProgress, 1, i)).ok());
    ASSERT_LE(store_.size(Name("a")), 22);
  }
  const Job now = **jobs->Get(Name("a"));
  EXPECT_EQ(now.revision(), 103);
  const Status compacted = (*lazy)->Next(kLong).status();
  EXPECT_EQ(compacted.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(compacted), reason::kRevisionCompacted);

  // From the beginning: a snapshot, then each revision.
  Finish(*jobs, Name("a"));
  const std::vector<v1::JobEvent> events = All(*jobs, Name("a"), 0);
  ASSERT_GT(events.size(), 8u);
  EXPECT_TRUE(events[0].has_snapshot());
  EXPECT_EQ(events[events.size() - 2].revision(), 105);

  jobs = Open();
  EXPECT_EQ((*jobs->Get(Name("a")))->revision(), 105);
  EXPECT_EQ((*jobs->Get(Name("a")))->state(), Job::SUCCEEDED);
}

TEST_F(JobStoreTest, WatchesEndWithTheJobStoreAndWithTheJob) {
  auto jobs = Open();
  for (const char* id : {"a", "b"}) ASSERT_TRUE(jobs->Create(Accepted(id), "", "").ok());
  auto a = *jobs->Watch(Name("a"), 1), b = *jobs->Watch(Name("b"), 1);
  for (const auto* watch : {&a, &b}) EXPECT_TRUE((**(*watch)->Next(kLong)).has_bookmark());
  EXPECT_FALSE((*a->Next(absl::ZeroDuration())).has_value());
  ASSERT_TRUE(jobs->Apply(Name("a"), {.kind = Kind::kCancel}).ok());
  ASSERT_TRUE(jobs->Delete(Name("a"), "").ok());
  // What was in the queue comes still.
  EXPECT_EQ((**a->Next(kLong)).snapshot().state(), Job::CANCELLED);
  jobs->CloseWatches();
  EXPECT_EQ(ReasonOf(b->Next(kLong).status()), reason::kShuttingDown);
  auto late = *jobs->Watch(Name("b"), 0);
  EXPECT_TRUE(late->Next(kLong).ok());
  EXPECT_TRUE(late->Next(kLong).ok());
  EXPECT_EQ(ReasonOf(late->Next(kLong).status()), reason::kShuttingDown);
}

}  // namespace
}  // namespace cvxq
