// The small parts of the service: names, filters, text, errors on the wire, the HTTP side.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "service/api/grpc_status.h"
#include "service/api/http_server.h"
#include "service/errors.h"
#include "service/job_filter.h"
#include "service/log.h"
#include "service/names.h"
#include "service/utf8.h"
#include "service/uuid.h"

namespace cvxq {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

TEST(Utf8, IsCleanedAndCutBetweenCharacters) {
  EXPECT_EQ(CleanUtf8("plain", 100), "plain");
  EXPECT_EQ(CleanUtf8("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 100),
            "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  EXPECT_EQ(CleanUtf8("a\xc3\xa9", 2), "a");
  EXPECT_EQ(CleanUtf8("\xff\xc3", 100), "??");
  EXPECT_EQ(CleanUtf8("\xc0\xaf", 100), "??");            // too long for what it says
  EXPECT_EQ(CleanUtf8("\xed\xa0\x80", 100), "???");       // half of a pair
  EXPECT_EQ(CleanUtf8("\xf4\x90\x80\x80", 100), "????");  // beyond the last
  EXPECT_EQ(CleanUtf8("\xe2\x82", 100), "??");            // cut off
}

TEST(Uuid, IsOfVersion4AndNew) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string uuid = NewUuid();
    EXPECT_TRUE(IsUuid4(uuid)) << uuid;
    EXPECT_TRUE(seen.insert(uuid).second);
  }
  for (const char* bad :
       {"", "00000000-0000-4000-8000-00000000000", "00000000-0000-4000-7000-000000000000",
        "00000000-0000-4000-8000-00000000000g", "000000000000-4000-8000-00000000-0000"}) {
    EXPECT_FALSE(IsUuid4(bad)) << bad;
  }
}

TEST(Names, AreParsed) {
  EXPECT_EQ(ParseJobName("projects/p/quantizeModelJobs/a-1")->job(),
            "projects/p/quantizeModelJobs/a-1");
  EXPECT_EQ(ParseOperationName("projects/p/operations/a")->job(), "projects/p/quantizeModelJobs/a");
  for (const char* id : {"", "A", "1a", "a-", "-a", "a_b", "a/b", "a\n"}) {
    EXPECT_FALSE(IsId(id)) << id;
  }
  EXPECT_TRUE(IsId(std::string(63, 'a')));
  EXPECT_FALSE(IsId(std::string(64, 'a')));
}

TEST(Filter, BindsOrTighterThanAnd) {
  const auto holds = [](const std::string& filter, Job::State state) {
    Job job;
    job.set_state(state);
    const auto parsed = ParseFilter(filter);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return parsed.ok() && (*parsed)(job);
  };
  EXPECT_TRUE(holds("", Job::QUEUED));
  EXPECT_TRUE(holds(" state=QUEUED ", Job::QUEUED));
  EXPECT_FALSE(holds("state != QUEUED", Job::QUEUED));
  const std::string both = "state = QUEUED OR state = RUNNING AND state != RUNNING";
  EXPECT_TRUE(holds(both, Job::QUEUED));
  EXPECT_FALSE(holds(both, Job::RUNNING));
  EXPECT_FALSE(ParseFilter(std::string(2000, ' ') + "state = QUEUED").ok());
}

TEST(PageToken, BelongsToItsQuery) {
  const std::string token = MakePageToken("query", "a");
  EXPECT_EQ(*ParsePageToken("query", token), "a");
  EXPECT_EQ(*ParsePageToken("query", ""), "");
  EXPECT_FALSE(ParsePageToken("other", token).ok());
  EXPECT_FALSE(ParsePageToken("query", MakePageToken("query", "../x")).ok());
}

TEST(Errors, CrossTheWireWithTheirDetails) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(3);
  const Status status = WithDetail(
      ServiceError(absl::StatusCode::kUnavailable, reason::kShuttingDown, "soon"), retry);
  EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  // An error of a lower layer gets a reason; one without details stays readable.
  EXPECT_EQ(ReasonOf(FromGrpcStatus(ToGrpcStatus(absl::InternalError("x")))), reason::kInternal);
  EXPECT_EQ(FromGrpcStatus(grpc::Status(grpc::NOT_FOUND, "x")), absl::NotFoundError("x"));
  EXPECT_EQ(FromGrpcStatus(grpc::Status(grpc::NOT_FOUND, "x", "no message")),
            absl::NotFoundError("x"));
  // Too large for headers: cut, but whole in what it says.
  google::rpc::DebugInfo debug;
  debug.set_detail(std::string(100'000, 'x'));
  const Status large = FromGrpcStatus(ToGrpcStatus(WithDetail(
      ServiceError(absl::StatusCode::kInternal, reason::kInternal, std::string(100'000, 'm')),
      debug)));
  EXPECT_EQ(ReasonOf(large), reason::kInternal);
  EXPECT_LE(large.message().size(), 1024u);
}

TEST(Log, IsOneJsonObjectALine) {
  std::string text;
  SetLogSink([&text](std::string_view line) { text += line; });
  Log(LogLevel::kError, "a \"b\"\nc\xff", {{"job", "x"}});
  SetLogSink(nullptr);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_THAT(text, HasSubstr("\"level\":\"error\""));
  EXPECT_THAT(text, HasSubstr("\"job\":\"x\"}\n"));
}

class HttpTest : public testing::Test {
 protected:
  void SetUp() override {
    auto server = HttpServer::Start("127.0.0.1:0", {.metrics = [] { return "cvxq_x 1\n"; },
                                                    .ready = [this] { return ready_; }});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  // What comes back for these bytes; an empty text only connects and leaves.
  std::string Send(const std::string& text) const {
    const int connection = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(server_->port()));
    std::string answer;
    if (connect(connection, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
        !text.empty() && send(connection, text.data(), text.size(), MSG_NOSIGNAL) > 0) {
      shutdown(connection, SHUT_WR);
      char buffer[4096];
      for (ssize_t count; (count = recv(connection, buffer, sizeof(buffer), 0)) > 0;) {
        answer.append(buffer, static_cast<size_t>(count));
      }
    }
    close(connection);
    return answer;
  }

  bool ready_ = true;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpTest, AnswersItsThreePages) {
  EXPECT_THAT(Send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), HasSubstr("\r\n\r\ncvxq_x 1\n"));
  EXPECT_THAT(Send("GET /healthz HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.0 200 "));
  EXPECT_THAT(Send("GET /readyz\n\n"), StartsWith("HTTP/1.0 200 "));
  ready_ = false;
  EXPECT_THAT(Send("GET /readyz HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.0 503 "));
  EXPECT_THAT(Send("GET /healthz HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.0 200 "));
}

TEST_F(HttpTest, SurvivesWhatIsNoRequest) {
  EXPECT_THAT(Send("GET /metricsx HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.0 404 "));
  EXPECT_THAT(Send("POST /metrics HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.0 400 "));
  EXPECT_THAT(Send(std::string("\0\xff\r\n\r\n", 6)), StartsWith("HTTP/1.0 400 "));
  EXPECT_THAT(Send("GET "), StartsWith("HTTP/1.0 404 "));
  EXPECT_EQ(Send(""), "");
  Send(std::string(200'000, 'x'));
  EXPECT_THAT(Send("GET /healthz HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.0 200 "));
  EXPECT_EQ(HttpServer::Start("127.0.0.1:" + std::to_string(server_->port()), {}).status().code(),
            absl::StatusCode::kUnavailable);
  for (const char* address : {"", "127.0.0.1", "host:1", "127.0.0.1:99999", "127.0.0.1:x"}) {
    EXPECT_EQ(HttpServer::Start(address, {}).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
}

}  // namespace
}  // namespace cvxq
