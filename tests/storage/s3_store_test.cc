// The client of S3 against a server that misbehaves.
#include "storage/s3/s3_store.h"

#include <atomic>
#include <functional>
#include <thread>

#include "base/interrupt.h"
#include "tests/storage/fake_s3.h"
#include "tests/storage/test_files.h"

namespace cvxq {
namespace {

using absl::StatusCode;

constexpr int64_t kPart = 1000;
constexpr char kKey[] = "folder/x";

std::string Pattern(int64_t size) {
  std::string bytes(size, '\0');
  for (int64_t i = 0; i < size; ++i) bytes[i] = static_cast<char>((i * i >> 5) + i);
  return bytes;
}

// An error that tells no secret.
void ExpectS3Error(const Status& status, StatusCode code, const std::string& part) {
  ExpectError(status, code, part);
  const std::string message(status.message());
  for (const char* secret : {FakeS3::kSecret, FakeS3::kToken}) {
    EXPECT_EQ(message.find(secret), std::string::npos) << message;
  }
}

class S3StoreTest : public testing::Test {
 protected:
  S3StoreTest() : store_(Open({.parallel_requests = 4, .part_bytes = kPart, .backoff_ms = 1})) {}
  ~S3StoreTest() override { EXPECT_EQ(server_.complaints(), std::vector<std::string>()); }

  std::unique_ptr<ObjectStore> Open(const ObjectStoreOptions& options) {
    return OpenS3Store(server_.Config("pre"), options).value();
  }
  // Tries once.
  std::unique_ptr<ObjectStore> OpenImpatient() {
    return Open({.parallel_requests = 2, .part_bytes = kPart, .deadline_ms = 0, .backoff_ms = 0});
  }
  void PutObject(const std::string& bytes) { server_.Put(absl::StrCat("pre/", kKey), bytes); }
  std::string Stored() { return server_.objects()[absl::StrCat("pre/", kKey)]; }

  static Status ReadInto(ObjectStore& store, std::string& out, const std::string& etag = "") {
    return store.Read(kKey, etag, 0, std::as_writable_bytes(std::span(out)));
  }
  // Writes `bytes` by a writer.
  static Status Upload(ObjectStore& store, const std::string& bytes) {
    CVXQ_ASSIGN_OR_RETURN(const auto writer, store.Create(kKey, 0));
    CVXQ_RETURN_IF_ERROR(writer->Append(std::as_bytes(std::span(bytes))));
    return writer->Commit();
  }

  FakeS3 server_;
  const std::unique_ptr<ObjectStore> store_;
};

// What may pass, of requests whose answers have a body and of those that have none.
std::vector<S3Fault> PassingFaults() {
  return {{S3Fault::kAnswer, 500, "InternalError"},
          {S3Fault::kAnswer, 502, ""},
          {S3Fault::kAnswer, 503, "SlowDown"},
          {S3Fault::kAnswer, 504, ""},
          {S3Fault::kAnswer, 429, ""},
          {S3Fault::kAnswer, 409, "OperationAborted"},
          {S3Fault::kAnswer, 400, "RequestTimeout"},
          {S3Fault::kResetBefore},
          {S3Fault::kResetAfter},
          {S3Fault::kLostReply},
          {S3Fault::kTruncated},
          {S3Fault::kDrip},
          {S3Fault::kWrongLength, 10}};
}

TEST_F(S3StoreTest, PassingFaultsAreNotSeen) {
  const std::string bytes = Pattern(3 * kPart + 10);
  for (S3Fault fault : PassingFaults()) {
    SCOPED_TRACE(absl::StrCat("fault ", fault.kind, " ", fault.status));
    for (const S3Op op : {S3Op::kGet, S3Op::kPut, S3Op::kDelete, S3Op::kList, S3Op::kStartUpload,
                          S3Op::kPutPart, S3Op::kComplete}) {
      server_.Break(op, fault, 2);
    }
    // Answers to HEAD have no body that could be cut or say more than the status.
    if (fault.status != 400 && fault.kind != S3Fault::kWrongLength)
      server_.Break(S3Op::kHead, fault, 2);
    EXPECT_EQ(store_->Write(kKey, bytes), absl::OkStatus());
    EXPECT_EQ(Stored(), bytes);
    std::string out(bytes.size(), '?');
    EXPECT_EQ(ReadInto(*store_, out), absl::OkStatus());
    EXPECT_TRUE(out == bytes);
    server_.Break(S3Op::kGet, fault, 2);
    EXPECT_EQ(store_->ReadAll(kKey, 10'000).value(), bytes);
    EXPECT_EQ(store_->List("")->size(), 1u);
    EXPECT_EQ(store_->Delete(kKey), absl::OkStatus());
    EXPECT_EQ(Upload(*store_, bytes), absl::OkStatus());
    EXPECT_EQ(Stored(), bytes);
    server_.Break(S3Op::kPut, fault, 2);
    EXPECT_EQ(store_->WriteIfAbsent("y", "mine"), absl::OkStatus());
    EXPECT_EQ(store_->Delete("y"), absl::OkStatus());
  }
}

TEST_F(S3StoreTest, CutAnswersAreContinued) {
  const std::string bytes = Pattern(20 * kPart);
  PutObject(bytes);
  server_.Break(S3Op::kGet, {S3Fault::kTruncated}, 40);
  std::string out(bytes.size(), '?');
  ASSERT_EQ(ReadInto(*store_, out), absl::OkStatus());
  EXPECT_TRUE(out == bytes);
  EXPECT_EQ(server_.body_bytes_sent(), 20 * kPart);  // nothing came twice
}

TEST_F(S3StoreTest, OneReadIsOfOneVersion) {
  for (const int64_t size : {kPart, 3 * kPart}) {
    PutObject(Pattern(size));
    server_.Break(S3Op::kGet, {S3Fault::kReplaced, 0, std::string(size, 'n')}, 1);
    std::string out(size, '?');
    ExpectS3Error(ReadInto(*store_, out), StatusCode::kFailedPrecondition, "changed");
  }
}

TEST_F(S3StoreTest, AnotherVersionIsNotEvenSent) {
  PutObject(Pattern(kPart));
  const std::string etag = store_->Head(kKey)->etag;
  PutObject(std::string(kPart, 'n'));
  std::string out(kPart, '?');
  ExpectS3Error(ReadInto(*store_, out, etag), StatusCode::kFailedPrecondition, "changed");
  EXPECT_LT(server_.body_bytes_sent(), kPart);  // the error's own words
}

TEST_F(S3StoreTest, ServersThatIgnoreConditionsOfReadsAreNoticed) {
  PutObject(Pattern(3 * kPart));
  server_.set_ignores_if_match();
  std::string out(3 * kPart, '?');
  ExpectS3Error(ReadInto(*store_, out, "\"other\""), StatusCode::kFailedPrecondition, "changed");
  server_.set_ignores_range();
  ExpectS3Error(ReadInto(*store_, out), StatusCode::kDataLoss, "a range was asked for");
}

TEST_F(S3StoreTest, AnswersThatAreTooShortAreNoticed) {
  PutObject(Pattern(3 * kPart));
  server_.Break(S3Op::kGet, {S3Fault::kWrongLength, -3}, 1);
  std::string out(3 * kPart, '?');
  ExpectS3Error(ReadInto(*store_, out), StatusCode::kDataLoss, "fewer bytes");
}

TEST_F(S3StoreTest, GivesUpAtTheDeadline) {
  const auto store = Open({.part_bytes = kPart, .deadline_ms = 50, .backoff_ms = 1});
  const auto fail = [&](const S3Fault& fault, const std::string& part) {
    for (const S3Op op : {S3Op::kGet, S3Op::kPut, S3Op::kDelete, S3Op::kStartUpload}) {
      server_.Break(op, fault, 100'000);
    }
    std::string out(10, '?');
    ExpectS3Error(ReadInto(*store, out), StatusCode::kUnavailable, part);
    ExpectS3Error(store->ReadAll(kKey, 10).status(), StatusCode::kUnavailable, part);
    ExpectS3Error(store->Write(kKey, "x"), StatusCode::kUnavailable, part);
    ExpectS3Error(store->WriteIfAbsent(kKey, "x"), StatusCode::kUnavailable, "s3://bucket/pre/");
    ExpectS3Error(store->Delete(kKey), StatusCode::kUnavailable, "s3://bucket/pre/folder/x");
    ExpectS3Error(Upload(*store, Pattern(2 * kPart)), StatusCode::kUnavailable, part);
  };
  fail({S3Fault::kAnswer, 503, "SlowDown"}, "HTTP 503 SlowDown");
}

TEST_F(S3StoreTest, ServersThatAreGoneAreNamed) {
  S3Config config;
  {
    const FakeS3 other;
    config = other.Config("");
  }
  const auto store = OpenS3Store(config, {.deadline_ms = 20, .backoff_ms = 1}).value();
  ExpectS3Error(store->Head(kKey).status(), StatusCode::kUnavailable, config.endpoint);
}

TEST_F(S3StoreTest, ServersThatDoNotAnswerAreLeft) {
  PutObject("x");
  server_.Break(S3Op::kGet, {S3Fault::kNoAnswer});
  const auto store = Open({.deadline_ms = 1000, .backoff_ms = 1});
  EXPECT_EQ(store->ReadAll(kKey, 10).value(), "x");
}

TEST_F(S3StoreTest, WorkThatWasStoppedDoesNotWait) {
  std::atomic<bool> stop = false;
  const StopScope scope(&stop);
  const auto store = Open({.parallel_requests = 4, .part_bytes = kPart, .backoff_ms = 100'000});
  const auto writer = store->Create(kKey, 0).value();
  const std::string bytes = Pattern(4 * kPart);
  ASSERT_EQ(writer->Append(std::as_bytes(std::span(bytes))), absl::OkStatus());
  stop = true;
  for (const S3Op op : {S3Op::kHead, S3Op::kGet, S3Op::kPut, S3Op::kPutPart, S3Op::kAbort}) {
    server_.Break(op, {S3Fault::kAnswer, 503, "SlowDown"}, 10);
  }
  std::string out(4 * kPart, '?');
  const std::string part = "interrupted";
  ExpectS3Error(ReadInto(*store, out, "\"e\""), StatusCode::kCancelled, part);
  ExpectS3Error(store->Head(kKey).status(), StatusCode::kCancelled, part);
  ExpectS3Error(store->WriteIfAbsent(kKey, "x"), StatusCode::kCancelled, part);
  Status status = writer->Append(std::as_bytes(std::span(bytes).first(1)));
  if (status.ok()) status = writer->Commit();  // parts may have failed before it
  ExpectS3Error(status, StatusCode::kCancelled, part);
}

TEST_F(S3StoreTest, NamesWhatIsForbidden) {
  PutObject("x");
  for (const S3Op op : {S3Op::kGet, S3Op::kPut, S3Op::kDelete, S3Op::kList}) {
    server_.Break(op, {S3Fault::kAnswer, 403, "AccessDenied"}, 1);
  }
  const std::string part = "s3://bucket/pre/folder/x: HTTP 403 AccessDenied";
  ExpectS3Error(store_->ReadAll(kKey, 10).status(), StatusCode::kPermissionDenied, part);
  ExpectS3Error(store_->WriteIfAbsent(kKey, "x"), StatusCode::kPermissionDenied, part);
  ExpectS3Error(store_->Delete(kKey), StatusCode::kPermissionDenied, part);
  ExpectS3Error(store_->List("folder/x").status(), StatusCode::kPermissionDenied, part);
  server_.Break(S3Op::kGet, {S3Fault::kAnswer, 400, "ExpiredToken"}, 1);
  ExpectS3Error(store_->ReadAll(kKey, 10).status(), StatusCode::kPermissionDenied,
                "HTTP 400 ExpiredToken");
  server_.Break(S3Op::kPut, {S3Fault::kAnswer, 404, "NoSuchBucket"}, 1);
  ExpectS3Error(store_->Write(kKey, "x"), StatusCode::kNotFound, "HTTP 404 NoSuchBucket");
}

TEST_F(S3StoreTest, NamesTheRightRegion) {
  for (const S3Op op : {S3Op::kHead, S3Op::kGet, S3Op::kPut, S3Op::kList}) {
    server_.Break(op, {S3Fault::kAnswer, 301, "PermanentRedirect"}, 1);
  }
  const std::string part = "set AWS_REGION=far-away-7";
  ExpectS3Error(store_->Head(kKey).status(), StatusCode::kFailedPrecondition, part);
  ExpectS3Error(store_->ReadAll(kKey, 9).status(), StatusCode::kFailedPrecondition, part);
  ExpectS3Error(store_->Write(kKey, ""), StatusCode::kFailedPrecondition, part);
  ExpectS3Error(store_->List("").status(), StatusCode::kFailedPrecondition, part);
  server_.Break(S3Op::kGet, {S3Fault::kBody, 400,
                             "<Error><Code>AuthorizationHeaderMalformed</Code>"
                             "<Region>far-away-7</Region></Error>"});
  ExpectS3Error(store_->ReadAll(kKey, 9).status(), StatusCode::kFailedPrecondition, part);
}

TEST_F(S3StoreTest, WrongCredentialsAreRefused) {
  FakeS3 server;
  S3Config config = server.Config("");
  config.credentials.secret_access_key = "wrong";
  const Status status = OpenS3Store(config, {.backoff_ms = 1}).value()->ReadAll(kKey, 9).status();
  ExpectS3Error(status, StatusCode::kPermissionDenied, "SignatureDoesNotMatch");
  config.credentials = {};
  EXPECT_EQ(OpenS3Store(config, {.backoff_ms = 1}).value()->ReadAll(kKey, 9).status().code(),
            StatusCode::kPermissionDenied);
  EXPECT_EQ(server.complaints().size(), 2u);
}

TEST_F(S3StoreTest, OwnWritesWhoseRepliesAreLostSucceed) {
  int number = 0;
  for (const S3Fault::Kind kind :
       {S3Fault::kLostReply, S3Fault::kResetAfter, S3Fault::kTruncated}) {
    server_.Break(S3Op::kPut, {kind}, 1);
    const std::string key = absl::StrCat("epochs/", ++number);
    EXPECT_EQ(store_->WriteIfAbsent(key, "mine"), absl::OkStatus());
    ExpectS3Error(store_->WriteIfAbsent(key, "your"), StatusCode::kAlreadyExists, key);
  }
}

TEST_F(S3StoreTest, OneOfManyWinsAlsoWhereRepliesAreLost) {
  constexpr int kThreads = 8, kRounds = 20;
  std::vector<std::vector<Status>> outcomes(kRounds, std::vector<Status>(kThreads));
  std::atomic<int> ready = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int round = 0; round < kRounds; ++round) {
          if (t == 0) {
            server_.Break(S3Op::kPut, {S3Fault::kLostReply}, 2);
            server_.Break(S3Op::kPut, {S3Fault::kAnswer, 409, "ConditionalRequestConflict"}, 2);
            server_.Break(S3Op::kPut, {S3Fault::kResetAfter}, 1);
            server_.Break(S3Op::kPut, {S3Fault::kAnswer, 503, "SlowDown"}, 2);
          }
          ++ready;
          while (ready < kThreads * (round + 1)) std::this_thread::yield();
          outcomes[round][t] =
              store_->WriteIfAbsent(absl::StrCat("epochs/", round), std::string(t + 1, 'x'));
        }
      });
    }
  }
  for (int round = 0; round < kRounds; ++round) {
    const size_t size = store_->ReadAll(absl::StrCat("epochs/", round), 100)->size();
    for (int t = 0; t < kThreads; ++t) {
      EXPECT_EQ(outcomes[round][t].ok(), size == t + 1u) << outcomes[round][t];
    }
  }
}

TEST_F(S3StoreTest, StoresWithoutConditionalWritesAreFound) {
  for (const S3Conditions conditions :
       {S3Conditions::kIgnored, S3Conditions::kLooksFirst, S3Conditions::kRefused}) {
    server_.set_conditions(conditions);
    ExpectS3Error(store_->CheckConditionalWrites("scratch"), StatusCode::kFailedPrecondition,
                  "If-None-Match");
    EXPECT_EQ(server_.objects().size(), 0u);
  }
  server_.set_conditions(S3Conditions::kAtomic);
  EXPECT_EQ(store_->CheckConditionalWrites("scratch"), absl::OkStatus());
}

TEST_F(S3StoreTest, PartsThatCameThroughAreNotSentAgain) {
  const std::string bytes = Pattern(6 * kPart);
  server_.Break(S3Op::kPutPart, {S3Fault::kLostReply}, 3);
  ASSERT_EQ(Upload(*store_, bytes), absl::OkStatus());
  EXPECT_EQ(Stored(), bytes);
  EXPECT_EQ(server_.count(S3Op::kPutPart), 6);
  EXPECT_EQ(server_.count(S3Op::kListParts), 3);
  // Where the list is of no use, they are.
  server_.Break(S3Op::kPutPart, {S3Fault::kLostReply}, 3);
  server_.Break(S3Op::kListParts, {S3Fault::kBody, 200, "<ListPartsResult><Part/>"}, 3);
  ASSERT_EQ(Upload(*store_, bytes), absl::OkStatus());
  EXPECT_EQ(server_.count(S3Op::kPutPart), 6 + 9);
  // So they are where something else is there.
  std::string others;
  for (int part = 1; part <= 6; ++part) {
    absl::StrAppend(&others, "<Part><PartNumber>", part, "</PartNumber><ETag>\"e\"</ETag><Size>",
                    kPart, "</Size></Part>");
  }
  server_.Break(S3Op::kPutPart, {S3Fault::kLostReply});
  server_.Break(S3Op::kListParts,
                {S3Fault::kBody, 200, "<ListPartsResult>" + others + "</ListPartsResult>"});
  ASSERT_EQ(Upload(*store_, bytes), absl::OkStatus());
  EXPECT_EQ(server_.count(S3Op::kPutPart), 6 + 9 + 7);
}

TEST_F(S3StoreTest, CompletionMayFailBehindAGoodStatus) {
  const std::string bytes = Pattern(3 * kPart);
  server_.Break(S3Op::kComplete, {S3Fault::kErrorIn200, 0, "InternalError"}, 3);
  ASSERT_EQ(Upload(*store_, bytes), absl::OkStatus());
  EXPECT_EQ(Stored(), bytes);
  server_.Break(S3Op::kComplete, {S3Fault::kErrorIn200, 0, "InvalidPart"}, 1);
  ExpectS3Error(Upload(*store_, Pattern(2 * kPart)), StatusCode::kFailedPrecondition,
                "HTTP 200 InvalidPart");
  server_.Break(S3Op::kComplete, {S3Fault::kBody, 200, "<html>"}, 1);
  ExpectS3Error(Upload(*store_, Pattern(2 * kPart)), StatusCode::kDataLoss, "no good XML");
  EXPECT_EQ(Stored(), bytes);
  EXPECT_EQ(server_.unfinished_uploads(), 0);
}

TEST_F(S3StoreTest, FailedUploadsAreAborted) {
  const std::string bytes = Pattern(10 * kPart);
  server_.Break(S3Op::kPutPart, {S3Fault::kAnswer, 403, "AccessDenied"}, 1);
  ExpectS3Error(Upload(*store_, bytes), StatusCode::kPermissionDenied, "HTTP 403 AccessDenied");
  EXPECT_EQ(server_.unfinished_uploads(), 0);
  EXPECT_EQ(server_.objects().size(), 0u);
  server_.Break(S3Op::kAbort, {S3Fault::kAnswer, 503, "SlowDown"}, 2);
  {
    const auto writer = store_->Create(kKey, 0).value();
    ASSERT_EQ(writer->Append(std::as_bytes(std::span(bytes))), absl::OkStatus());
  }
  EXPECT_EQ(server_.unfinished_uploads(), 0);
  EXPECT_EQ(server_.objects().size(), 0u);
}

TEST_F(S3StoreTest, UploadsHaveNoMorePartsThanS3Takes) {
  const auto store = Open({.part_bytes = 1, .backoff_ms = 1});
  const auto writer = store->Create(kKey, 0).value();
  const std::string bytes(10'002, 'x');
  ExpectS3Error(writer->Append(std::as_bytes(std::span(bytes))), StatusCode::kResourceExhausted,
                "10000 parts");
  // With the size known before, parts are larger.
  const auto larger = store->Create("y", 10'002).value();
  EXPECT_EQ(larger->Append(std::as_bytes(std::span(bytes))), absl::OkStatus());
  EXPECT_EQ(larger->Commit(), absl::OkStatus());
  EXPECT_EQ(server_.objects()["pre/y"], bytes);
}

TEST_F(S3StoreTest, HostileHeadersAreErrors) {
  const std::string huge(2 << 20, 'h');
  const std::vector<std::string> answers = {
      "",
      "\r\n\r\n",
      "garbage",
      "HTTP/1.1",
      "HTTP/1.1 200 OK\r\n\r\n",
      "HTTP/1.1 200 OK\r\n\r\nbytes without a length",
      "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000000\r\n\r\nx",
      "HTTP/1.1 206 OK\r\nContent-Length: 3\r\nETag: \"e\"\r\n\r\nabc",
      "HTTP/1.1 206 OK\r\nContent-Length: 3\r\nETag: \"e\"\r\nContent-Range: bytes "
      "5-7/9\r\n\r\nabc",
      "HTTP/1.1 206 OK\r\nContent-Length: 3\r\nETag: \"e\"\r\nContent-Range: bytes "
      "0-9/9\r\n\r\nabc",
      "HTTP/1.1 206 OK\r\nContent-Length: 3\r\nContent-Range: bytes 0-9/99\r\n\r\nabc",
      "HTTP/1.1 206 OK\r\nContent-Length: 12\r\nETag: \"e\"\r\nContent-Range: bytes 0-9/99\r\n\r\n"
      "abcdefghijkl",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
      "HTTP/1.1 200 OK\r\nETag: " + huge + "\r\nContent-Length: 0\r\n\r\n",
      "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
      "HTTP/1.1 400 No\r\nContent-Length: " + std::to_string(huge.size()) + "\r\n\r\n" + huge,
      "HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
      "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 12",
      "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 12 345\r\n\r\n",
      "HTTP/1.1 700 What\r\nContent-Length: 0\r\n\r\n"};
  const auto store = OpenImpatient();
  for (const std::string& answer : answers) {
    SCOPED_TRACE(answer.substr(0, 60));
    for (const S3Op op : {S3Op::kGet, S3Op::kHead, S3Op::kList, S3Op::kStartUpload}) {
      server_.Break(op, {S3Fault::kRaw, 0, answer}, 20);
    }
    std::string out(10, '?');
    EXPECT_FALSE(store->Head(kKey).ok());
    EXPECT_FALSE(ReadInto(*store, out).ok());
    ExpectS3Error(ReadInto(*store, out, "\"e\""), ReadInto(*store, out, "\"e\"").code(), kKey);
    const auto all = store->ReadAll(kKey, 2);
    EXPECT_TRUE(!all.ok() || all->empty());  // an empty object, for all one can see
    EXPECT_FALSE(store->List("").ok());
    EXPECT_FALSE(Upload(*store, Pattern(3 * kPart)).ok());
    for (const S3Op op : {S3Op::kGet, S3Op::kHead, S3Op::kList, S3Op::kStartUpload}) {
      server_.Mend(op);
    }
  }
}

TEST_F(S3StoreTest, HostileXmlIsAnError) {
  std::string deep, wide = "<ListBucketResult><IsTruncated>false</IsTruncated>";
  for (int i = 0; i < 200'000; ++i) deep += "<a>";
  while (wide.size() < (9 << 20)) wide += "<Contents></Contents>";
  const std::string entry = "<Contents><Key>pre/a</Key><ETag>e</ETag><Size>1</Size></Contents>";
  const std::vector<std::string> lists = {
      "",
      "<",
      "plain text",
      "<html><body>Welcome</body></html>",
      "<ListBucketResult>",
      "<ListBucketResult></ListBucketResult>",
      "<ListBucketResult><IsTruncated>maybe</IsTruncated></ListBucketResult>",
      "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
      "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>pre/a</Key><ETag>e</ETag>"
      "<Size>-1</Size></Contents></ListBucketResult>",
      "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>pre/a</Key><ETag>e</ETag>"
      "<Size>99999999999999999999</Size></Contents></ListBucketResult>",
      "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>pre/a</Key>"
      "<Size>1</Size></Contents></ListBucketResult>",
      "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>else/a</Key><ETag>e</ETag>"
      "<Size>1</Size></Contents></ListBucketResult>",
      "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
      "<Contents><Key>pre/%g0</Key><ETag>e</ETag><Size>1</Size></Contents></ListBucketResult>",
      deep,
      wide};
  for (const std::string& list : lists) {
    SCOPED_TRACE(list.substr(0, 100));
    server_.Break(S3Op::kList, {S3Fault::kBody, 200, list});
    ExpectS3Error(store_->List("").status(),
                  list == wide ? StatusCode::kResourceExhausted : StatusCode::kDataLoss,
                  "s3://bucket/pre");
  }
  // Lists that never end, or seem not to.
  const std::string same =
      "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t"
      "</NextContinuationToken>" +
      entry + "</ListBucketResult>";
  server_.Break(S3Op::kList, {S3Fault::kBody, 200, same}, 2);
  ExpectS3Error(store_->List("").status(), StatusCode::kDataLoss, "without end");
  server_.Mend(S3Op::kList);
  // Keys that are no good as names are left out.
  server_.Break(
      S3Op::kList,
      {S3Fault::kBody, 200,
       "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>pre/../../etc/x</Key>"
       "<ETag>e</ETag><Size>1</Size></Contents><Contents><Key>pre/folder/</Key><ETag>e</ETag>"
       "<Size>0</Size></Contents>" +
           entry + "</ListBucketResult>"});
  const auto list = store_->List("").value();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].key, "a");

  for (const char* start : {"", "<x/>", "<InitiateMultipartUploadResult/>",
                            "<InitiateMultipartUploadResult><UploadId></UploadId>"
                            "</InitiateMultipartUploadResult>",
                            "<InitiateMultipartUploadResult><UploadId>a\nb</UploadId>"
                            "</InitiateMultipartUploadResult>"}) {
    server_.Break(S3Op::kStartUpload, {S3Fault::kBody, 200, start});
    ExpectS3Error(Upload(*store_, Pattern(3 * kPart)), StatusCode::kDataLoss, kKey);
  }
  server_.Break(S3Op::kPutPart, {S3Fault::kBody, 200, ""});
  ExpectS3Error(Upload(*store_, Pattern(3 * kPart)), StatusCode::kDataLoss, "without ETag");
}

TEST_F(S3StoreTest, ErrorsAreShownWithoutTheServersTricks) {
  server_.Break(S3Op::kGet,
                {S3Fault::kBody, 403, "<Error><Code>Access\n\x1b[31mDenied&#x1b;</Code></Error>"});
  ExpectS3Error(store_->ReadAll(kKey, 9).status(), StatusCode::kPermissionDenied, "HTTP 403");
  server_.Break(S3Op::kGet, {S3Fault::kBody, 403,
                             "<Error><Code>" + std::string(100'000, 'A') + "</Code></Error>"});
  ExpectS3Error(store_->ReadAll(kKey, 9).status(), StatusCode::kPermissionDenied, "HTTP 403");
}

}  // namespace
}  // namespace cvxq
