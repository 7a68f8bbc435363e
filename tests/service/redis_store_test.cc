// What is particular to the store in Redis: lost requests and replies, late requests, a server that
// has forgotten.
#include "service/store/redis_store.h"

#include <stdlib.h>

#include <thread>

#include "tests/service/store_backends.h"
#include "tests/service/tcp_proxy.h"

namespace cvxq {
namespace {

using absl::StatusCode;
using Fault = TcpProxy::Fault;
using Names = std::vector<std::string>;

// Stores that reach their server through a proxy and give up soon.
class RedisStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!RedisServer::Installed()) GTEST_SKIP() << RedisServer::kMissing;
    server_ = std::make_unique<RedisServer>(folder_.path());
    proxy_ = *TcpProxy::Start(server_->socket_path());
    store_ = Open();
    epoch_ = *store_->ClaimEpoch("test");
    ASSERT_TRUE(store_->CreateLog(epoch_, "log", "id", "digest", {"a"}).ok());
  }
  std::unique_ptr<StateStore> Open(const RedisOptions& options = {.attempts = 3,
                                                                  .first_pause_ms = 1}) {
    StatusOr<std::unique_ptr<StateStore>> store = OpenRedisStore(
        *ParseRedisAddress(absl::StrCat("redis://127.0.0.1:", proxy_->port())), options);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  // What somebody does to the server by hand.
  void Tell(const std::vector<std::string>& command) {
    RedisConnection connection(*ParseRedisAddress(server_->address()), "", {});
    const StatusOr<RedisReply> reply = connection.Call(command);
    EXPECT_TRUE(reply.ok()) << reply.status();
  }

  TempFolder folder_;
  std::unique_ptr<RedisServer> server_;
  std::unique_ptr<TcpProxy> proxy_;
  std::unique_ptr<StateStore> store_;
  int64_t epoch_ = 0;
};

TEST_F(RedisStoreTest, ALostRequestOrReplyChangesNoOutcome) {
  // The second request of a call is its script as a whole, where the server has not seen it yet.
  for (const Fault fault : {Fault::kLoseRequest, Fault::kLoseReply}) {
    for (const int skip : {0, 1}) {
      for (const int times : {1, 2}) {
        SCOPED_TRACE(absl::StrCat(static_cast<int>(fault), " ", skip, " ", times));
        const auto fail = [&] {
          if (skip == 1) Tell({"SCRIPT", "FLUSH"});
          proxy_->Fail(fault, skip, times);
        };
        fail();
        const int64_t epoch = *store_->ClaimEpoch("test");
        EXPECT_EQ(*store_->CurrentEpoch(), epoch);
        EXPECT_GT(epoch, epoch_);
        epoch_ = epoch;
        fail();
        const StatusOr<CreatedLog> log = store_->CreateLog(epoch_, "new", "request", "d", {"x"});
        ASSERT_TRUE(log.ok()) << log.status();
        EXPECT_TRUE(log->created);
        fail();
        const StatusOr<int64_t> last = store_->Append(epoch_, "new", 1, {"y", "z"});
        ASSERT_TRUE(last.ok()) << last.status();
        EXPECT_EQ(*last, 3);
        EXPECT_EQ(Contents(*store_, "new"), Names({"x", "y", "z"}));
        fail();
        EXPECT_TRUE(store_->Compact(epoch_, "new", 2, "xy").ok());
        fail();
        EXPECT_EQ(Contents(*store_, "new"), Names({"xy", "z"}));
        fail();
        EXPECT_EQ(*store_->ListLogs("", "", 10), Names({"log", "new"}));
        fail();
        EXPECT_TRUE(store_->DeleteLog(epoch_, "new").ok());
        EXPECT_EQ(*store_->ListLogs("", "", 10), Names({"log"}));
        fail();
        EXPECT_EQ(*store_->CurrentEpoch(), epoch_);
        // Refusals are the same, too.
        fail();
        EXPECT_EQ(store_->Append(epoch_, "log", 7, {"x"}).status().code(), StatusCode::kAborted);
        fail();
        EXPECT_EQ(store_->CreateLog(epoch_, "log", "", "", {"x"}).status().code(),
                  StatusCode::kAlreadyExists);
        EXPECT_EQ(Contents(*store_, "log"), Names({"a"}));
      }
    }
  }
}

TEST_F(RedisStoreTest, AnAppendWithALostReplyIsToldFromOthersOfTheSameBytes) {
  const std::unique_ptr<StateStore> slow = Open({.attempts = 2, .first_pause_ms = 200});
  proxy_->Fail(Fault::kLoseReply);
  StatusOr<int64_t> first = -1;
  std::thread writer([&] { first = slow->Append(epoch_, "log", 1, {"same"}); });
  const std::unique_ptr<StateStore> direct = *OpenStateStore(server_->address());
  while (direct->Read("log", 0, 10)->size() < 2) std::this_thread::yield();
  EXPECT_EQ(direct->Append(epoch_, "log", 1, {"same"}).status().code(), StatusCode::kAborted);
  EXPECT_EQ(*direct->Append(epoch_, "log", 2, {"next"}), 3);
  writer.join();
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(*first, 2);
  EXPECT_EQ(Contents(*store_, "log"), Names({"a", "same", "next"}));
}

TEST_F(RedisStoreTest, ALateRequestDoesNothing) {
  // Each write is held up, given up and sent again; the first sending arrives after the next write.
  const auto hold = [&] { proxy_->Fail(Fault::kHoldRequest); };
  hold();
  EXPECT_TRUE(store_->CreateLog(epoch_, "new", "request", "", {"x"})->created);
  ASSERT_TRUE(store_->DeleteLog(epoch_, "new").ok());
  proxy_->Release();
  EXPECT_EQ(*store_->ListLogs("", "", 10), Names({"log"}));
  hold();
  ASSERT_TRUE(store_->DeleteLog(epoch_, "new").ok());
  EXPECT_TRUE(store_->CreateLog(epoch_, "new", "request", "", {"x"})->created);
  proxy_->Release();
  EXPECT_EQ(*store_->ListLogs("", "", 10), Names({"log", "new"}));
  hold();
  EXPECT_EQ(*store_->Append(epoch_, "new", 1, {"y"}), 2);
  proxy_->Release();
  EXPECT_EQ(Contents(*store_, "new"), Names({"x", "y"}));
  hold();
  EXPECT_TRUE(store_->Compact(epoch_, "new", 2, "xy").ok());
  EXPECT_TRUE(store_->Compact(epoch_, "new", 2, "better").ok());
  proxy_->Release();
  EXPECT_EQ(Contents(*store_, "new"), Names({"better"}));
  // One that was refused is not done later either, when it would fit.
  hold();
  EXPECT_EQ(store_->Append(epoch_, "new", 3, {"late"}).status().code(), StatusCode::kAborted);
  EXPECT_EQ(*Open()->Append(epoch_, "new", 2, {"z"}), 3);
  proxy_->Release();
  EXPECT_EQ(Contents(*store_, "new"), Names({"better", "z"}));
  hold();
  const int64_t epoch = *store_->ClaimEpoch("test");
  proxy_->Release();
  EXPECT_EQ(*store_->CurrentEpoch(), epoch);
  // Every sending is held up: the outcome is unknown until the next write of the store is done.
  proxy_->Fail(Fault::kHoldRequest, 0, 3);
  ExpectError(store_->Append(epoch, "new", 3, {"end"}).status(), StatusCode::kUnavailable,
              "see that it runs");
  EXPECT_TRUE(store_->DeleteLog(epoch, "log").ok());
  proxy_->Release();
  EXPECT_EQ(Contents(*store_, "new"), Names({"better", "z"}));
  EXPECT_EQ(*store_->Append(epoch, "new", 3, {"end"}), 4);
}

// Nothing is read from, or written to, a server that is not what it was.
void ExpectWentBack(StateStore& store, int64_t epoch) {
  const auto unavailable = [](const Status& status) {
    ExpectError(status, StatusCode::kUnavailable, "has lost writes");
  };
  ExpectError(store.CurrentEpoch().status(), StatusCode::kDataLoss, "has lost writes");
  unavailable(store.Append(epoch, "log", 1, {"b"}).status());
  unavailable(store.Compact(epoch, "log", 1, "b"));
  unavailable(store.Read("log", 0, 1).status());
  unavailable(store.CreateLog(epoch, "log", "", "", {"b"}).status());
  unavailable(store.CreateLog(epoch, "log2", "", "", {"b"}).status());
  unavailable(store.PutLog(epoch, "log", "", "", {1, "b"}));
  unavailable(store.DeleteLog(epoch, "log"));
}

TEST_F(RedisStoreTest, AServerThatForgotEverythingIsNoticed) {
  Tell({"FLUSHALL"});
  ExpectWentBack(*store_, epoch_);
  const int64_t epoch = *store_->RenewEpoch(epoch_, "test");
  EXPECT_GT(epoch, epoch_);
  EXPECT_EQ(*store_->CurrentEpoch(), epoch);
  EXPECT_EQ(store_->Read("log", 0, 1).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(store_->PutLog(epoch, "log", "id", "digest", {1, "a"}).ok());
  // Again, and this time another store is there first.
  Tell({"FLUSHALL"});
  const int64_t others = *Open()->ClaimEpoch("other");
  EXPECT_GT(others, epoch);
  EXPECT_EQ(*store_->CurrentEpoch(), others);
  EXPECT_EQ(store_->RenewEpoch(epoch, "test").status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->Append(epoch, "log", 1, {"b"}).status().code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->CreateLog(epoch, "log", "", "", {"b"}).status().code(),
            StatusCode::kFailedPrecondition);
}

// Started from an older file: before the epoch was claimed, or after it.
TEST_F(RedisStoreTest, AServerThatWentBackInTimeIsNoticed) {
  const auto files = [&] { return server_->DataFiles(); };
  const auto restart_from = [&](const std::map<std::string, std::string>& data) {
    server_->Kill();
    server_->Replace(data);
    server_->Start();
  };
  const auto before_epoch = files();
  const int64_t epoch = *store_->ClaimEpoch("test");
  ASSERT_TRUE(store_->CreateLog(epoch, "log2", "", "", {"x"}).ok());
  const auto after_epoch = files();
  ASSERT_TRUE(store_->DeleteLog(epoch, "log2").ok());
  for (const auto& data : {before_epoch, after_epoch}) {
    restart_from(data);
    ExpectWentBack(*store_, epoch);
  }
  const int64_t renewed = *store_->RenewEpoch(epoch, "test");
  EXPECT_EQ(*store_->ListLogs("", "", 10), Names({"log", "log2"}));
  EXPECT_TRUE(store_->DeleteLog(renewed, "log2").ok());
  // A restart from all it had is no loss.
  restart_from(files());
  EXPECT_EQ(*store_->CurrentEpoch(), renewed);
  EXPECT_EQ(*store_->Append(renewed, "log", 1, {"b"}), 2);
}

TEST_F(RedisStoreTest, ARenewalWhoseReplyIsLostIsRepeated) {
  Tell({"FLUSHALL"});
  proxy_->Fail(Fault::kLoseReply, 0, 3);
  EXPECT_EQ(store_->RenewEpoch(epoch_, "test").status().code(), StatusCode::kUnavailable);
  const int64_t epoch = *store_->RenewEpoch(epoch_, "test");
  EXPECT_EQ(*store_->CurrentEpoch(), epoch);
  EXPECT_TRUE(store_->PutLog(epoch, "log", "", "", {1, "a"}).ok());
}

TEST_F(RedisStoreTest, NoEpochIsGivenTwice) {
  const int64_t future = int64_t{1} << 45;  // in milliseconds: beyond the clock of any server
  Tell({"HSET", "cvxq:{cvxq}:epochs", "newest", absl::StrCat(future)});
  const int64_t epoch = *store_->ClaimEpoch("test");
  EXPECT_EQ(epoch, future + 1);
  Tell({"FLUSHALL"});
  EXPECT_GT(*Open()->ClaimEpoch("test"), epoch);
  EXPECT_FALSE(store_->CreateLog(epoch, "log", "", "", {"b"}).ok());
}

TEST_F(RedisStoreTest, LostRecordsAreNoticed) {
  ASSERT_TRUE(store_->Append(epoch_, "log", 1, {"b", "c"}).ok());
  // Its end, as of a server that has gone back in time.
  Tell({"RPOP", "cvxq:{cvxq}:records:log"});
  Tell({"HSET", "cvxq:{cvxq}:log:log", "last", "2"});
  EXPECT_EQ(store_->Append(epoch_, "log", 3, {"d"}).status().code(), StatusCode::kAborted);
  EXPECT_EQ(store_->Read("log", 3, 1).status().code(), StatusCode::kOutOfRange);
  // A record, then either key.
  Tell({"RPOP", "cvxq:{cvxq}:records:log"});
  ExpectError(store_->Read("log", 0, 1).status(), StatusCode::kDataLoss, "\"log\"");
  Tell({"DEL", "cvxq:{cvxq}:log:log"});  // one record is left, of no known revision
  EXPECT_EQ(store_->Read("log", 0, 1).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(store_->Append(epoch_, "log", 1, {"b"}).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(store_->Compact(epoch_, "log", 1, "b").code(), StatusCode::kDataLoss);
  ASSERT_TRUE(store_->DeleteLog(epoch_, "log").ok());
  ASSERT_TRUE(store_->CreateLog(epoch_, "log", "", "", {"a"}).ok());
  Tell({"DEL", "cvxq:{cvxq}:records:log"});
  EXPECT_EQ(store_->Append(epoch_, "log", 1, {"b"}).status().code(), StatusCode::kDataLoss);
  Tell({"SET", "cvxq:{cvxq}:records:log", "of another program"});
  ExpectError(store_->Read("log", 0, 1).status(), StatusCode::kDataLoss, "another program");
}

TEST_F(RedisStoreTest, OutlivesARestartOfItsServer) {
  const std::unique_ptr<StateStore> direct = *OpenStateStore(server_->address());
  server_->Kill();
  ExpectError(store_->Append(epoch_, "log", 1, {"b"}).status(), StatusCode::kUnavailable,
              "redis://127.0.0.1:");
  // Writing to a socket whose other end is gone does not end the process with SIGPIPE.
  ExpectError(direct->Append(epoch_, "log", 1, {"b"}).status(), StatusCode::kUnavailable,
              server_->address());
  server_->Start();
  EXPECT_EQ(*store_->Append(epoch_, "log", 1, {"b"}), 2);
  EXPECT_EQ(Contents(*store_, "log"), Names({"a", "b"}));
}

TEST_F(RedisStoreTest, AServerThatHangsIsGivenUpInTime) {
  const std::unique_ptr<StateStore> store = Open({.command_timeout_ms = 300, .attempts = 1});
  server_->Freeze();
  ExpectError(store->Append(epoch_, "log", 1, {"b"}).status(), StatusCode::kUnavailable, "in time");
  server_->Thaw();
  // Whether the first sending is still done or the second one: once.
  const StatusOr<int64_t> last = store_->Append(epoch_, "log", 1, {"b"});
  EXPECT_TRUE(last.ok() || absl::IsAborted(last.status())) << last.status();
  EXPECT_EQ(Contents(*store_, "log"), Names({"a", "b"}));
}

TEST_F(RedisStoreTest, SaysWhatTheServerLacks) {
  Tell({"CONFIG", "SET", "maxmemory", "1"});
  ExpectError(store_->Append(epoch_, "log", 1, {"b"}).status(), StatusCode::kResourceExhausted,
              "maxmemory");
  EXPECT_EQ(Contents(*store_, "log"), Names({"a"}));
  Tell({"CONFIG", "SET", "maxmemory", "1gb"});
  Tell({"CONFIG", "SET", "maxmemory-policy", "allkeys-lru"});
  ExpectError(OpenStateStore(server_->address()).status(), StatusCode::kFailedPrecondition,
              "noeviction");
  Tell({"CONFIG", "SET", "maxmemory", "0"});
  Tell({"HSET", "cvxq:{cvxq}:epochs", "format", "2"});
  ExpectError(OpenStateStore(server_->address()).status(), StatusCode::kFailedPrecondition,
              "a newer cvxq");
  Tell({"REPLICAOF", "127.0.0.1", "1"});
  ExpectError(store_->Append(epoch_, "log", 1, {"b"}).status(), StatusCode::kUnavailable,
              "primary");
}

TEST(RedisPasswordTest, ComesFromTheEnvironment) {
  if (!RedisServer::Installed()) GTEST_SKIP() << RedisServer::kMissing;
  TempFolder folder;
  const RedisServer server(folder.path(), {"--requirepass", "s3cret"});
  ExpectError(OpenStateStore(server.address()).status(), StatusCode::kPermissionDenied,
              "CVXQ_REDIS_PASSWORD");
  setenv("CVXQ_REDIS_PASSWORD", "wr0ng", 1);
  const Status wrong = OpenStateStore(server.address()).status();
  setenv("CVXQ_REDIS_PASSWORD", "s3cret", 1);
  const StatusOr<std::unique_ptr<StateStore>> store = OpenStateStore(server.address() + "?db=3");
  unsetenv("CVXQ_REDIS_PASSWORD");
  ExpectError(wrong, StatusCode::kPermissionDenied, "CVXQ_REDIS_PASSWORD");
  EXPECT_EQ(wrong.message().find("wr0ng"), std::string::npos);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE((*store)->ClaimEpoch("test").ok());
}

TEST(RedisAddressTest, Parses) {
  const RedisAddress plain = *ParseRedisAddress("redis://host");
  EXPECT_EQ(plain.host, "host");
  EXPECT_EQ(plain.port, 6379);
  EXPECT_EQ(plain.database, 0);
  const RedisAddress all = *ParseRedisAddress("redis://[::1]:7000/5");
  EXPECT_EQ(all.host, "::1");
  EXPECT_EQ(all.port, 7000);
  EXPECT_EQ(all.database, 5);
  EXPECT_EQ(ParseRedisAddress("redis://10.0.0.1/")->host, "10.0.0.1");
  const RedisAddress file = *ParseRedisAddress("redis+unix:///run/redis/a?b.sock?db=12");
  EXPECT_EQ(file.path, "/run/redis/a?b.sock");
  EXPECT_EQ(file.database, 12);
}

}  // namespace
}  // namespace cvxq
