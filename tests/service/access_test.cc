// Who gets in: tokens, certificates, rates, addresses; health and reflection.
#include "service/api/access.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "service/api/credentials.h"
#include "service/api/grpc_log.h"
#include "service/log.h"
#include "tests/service/certificates.h"
#include "tests/service/test_service.h"

namespace cvxq {
namespace {

constexpr char kTokens[] =
    "# name token projects\n"
    "admin  admin-token-0123456789  *\n"
    "ann    ann-token-0123456789    p,q\n";

class AccessTest : public testing::Test {
 protected:
  AccessTest() {
    SetLogSink([this](std::string_view line) {
      std::lock_guard lock(mutex_);
      log_ += line;
    });
    LogGrpcErrors();
  }
  ~AccessTest() override { SetLogSink(nullptr); }
  std::mutex mutex_;
  std::string log_;
};

TEST_F(AccessTest, TokensDecideWhoSeesWhat) {
  ServerOptions options;
  options.tokens = kTokens;
  TestService service(options);
  const auto expect = [&](const std::string& token, const std::string& name, absl::StatusCode code,
                          const char* reason) {
    SCOPED_TRACE(token + " " + name);
    service.token_ = token;
    const Status status = service.Get(name).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_EQ(ReasonOf(status), reason) << status;
  };
  service.token_ = "admin-token-0123456789";
  auto request = service.Request("a");
  request.set_parent("projects/secret");
  ASSERT_TRUE(service.Create(request).ok());
  const std::string there = "projects/secret/quantizeModelJobs/a";
  const std::string absent = "projects/secret/quantizeModelJobs/b";
  for (const char* wrong : {"", "ann-token-012345678", "ann-token-0123456789x", "ann", "*"}) {
    for (const std::string& name : {there, absent}) {
      expect(wrong, name, absl::StatusCode::kUnauthenticated, reason::kTokenInvalid);
    }
  }
  // Forbidden looks the same whether or not there is anything.
  expect("ann-token-0123456789", there, absl::StatusCode::kPermissionDenied,
         reason::kProjectDenied);
  expect("ann-token-0123456789", absent, absl::StatusCode::kPermissionDenied,
         reason::kProjectDenied);
  expect("ann-token-0123456789", "projects/q/quantizeModelJobs/a", absl::StatusCode::kNotFound,
         reason::kJobNotFound);
  expect("admin-token-0123456789", absent, absl::StatusCode::kNotFound, reason::kJobNotFound);
  std::vector<v1::JobEvent> events;
  service.token_ = "ann-token-0123456789";
  EXPECT_EQ(ReasonOf(service.Watch(there, 0, events)), reason::kProjectDenied);
  EXPECT_THAT(log_, testing::Not(testing::HasSubstr("token-0")));
}

TEST_F(AccessTest, BadTokenFilesAreRefusedWithoutTellingSecrets) {
  for (const char* file : {"", "# nothing\n", "ann secret-secret-secret", "ann short *",
                           "ann secret-secret-secret p,,q", "ann secret-secret-secret p q"}) {
    const Status status = Access::Parse(file).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << file;
    EXPECT_THAT(std::string(status.message()), testing::Not(testing::HasSubstr("secret-")));
  }
}

TEST_F(AccessTest, RatesAreBoundedForEachCaller) {
  RateLimit limit(2);
  absl::Time now = absl::FromUnixSeconds(1'000'000);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(limit.Take("a", now).ok());
  const Status refused = limit.Take("a", now);
  EXPECT_EQ(ReasonOf(refused), reason::kRateLimited);
  EXPECT_TRUE(refused.GetPayload("type.googleapis.com/google.rpc.RetryInfo").has_value());
  EXPECT_TRUE(limit.Take("b", now).ok());
  now += absl::Milliseconds(500);
  EXPECT_TRUE(limit.Take("a", now).ok());
  EXPECT_FALSE(limit.Take("a", now).ok());

  ServerOptions options;
  options.rate = 1e-6;
  TestService service(options);
  EXPECT_EQ(ReasonOf(service.Get("a").status()), reason::kRateLimited);
}

TEST_F(AccessTest, OnlyCertificatesOfTheAuthorityGetIn) {
  const Certificate authority = MakeAuthority("ours"), foreign = MakeAuthority("theirs");
  const Certificate server = MakeCertificate(authority, "server", 24);
  ServerOptions options;
  options.certificate = server.certificate;
  options.key = server.key;
  options.client_ca = authority.certificate;
  TestService service(options);
  const auto get = [&](const Certificate* client, const std::string& roots) {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = roots;
    if (client != nullptr) {
      ssl.pem_cert_chain = client->certificate;
      ssl.pem_private_key = client->key;
    }
    service.Connect(grpc::SslCredentials(ssl));
    return service.Get("a").status();
  };
  const Certificate good = MakeCertificate(authority, "client", 24);
  EXPECT_EQ(ReasonOf(get(&good, authority.certificate)), reason::kJobNotFound);
  const Certificate expired = MakeCertificate(authority, "client", -1);
  EXPECT_EQ(get(&expired, authority.certificate).code(), absl::StatusCode::kUnavailable);
  const Certificate other = MakeCertificate(foreign, "client", 24);
  EXPECT_EQ(get(&other, authority.certificate).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(get(nullptr, authority.certificate).code(), absl::StatusCode::kUnavailable);
  // And the client does not trust just any server.
  EXPECT_EQ(get(&good, foreign.certificate).code(), absl::StatusCode::kUnavailable);
  service.Connect(grpc::InsecureChannelCredentials());
  EXPECT_EQ(service.Get("a").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(get(&good, authority.certificate)), reason::kJobNotFound);
}

TEST_F(AccessTest, BeyondLoopbackOnlyWithCertificates) {
  EXPECT_TRUE(IsLoopback("127.0.0.1:7700"));
  EXPECT_TRUE(IsLoopback("127.1.2.3:0"));
  EXPECT_TRUE(IsLoopback("[::1]:7700"));
  EXPECT_TRUE(IsLoopback("localhost:7700"));
  for (const char* open : {"0.0.0.0:7700", "[::]:7700", "10.0.0.1:7700", "127.evil.example:7700",
                           "example.com:7700", ":7700", "*:7700"}) {
    EXPECT_FALSE(IsLoopback(open)) << open;
  }
  TestService service;
  ServerOptions options;
  options.listen = "0.0.0.0:0";
  EXPECT_EQ(ApiServer::Start(*service.coordinator_, options).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.listen = "127.0.0.1:0";
  options.certificate = "only this";
  EXPECT_EQ(ApiServer::Start(*service.coordinator_, options).status().code(),
            absl::StatusCode::kInvalidArgument);
  // One port is one server's.
  ServerOptions same;
  same.listen = service.address();
  EXPECT_EQ(ApiServer::Start(*service.coordinator_, same).status().code(),
            absl::StatusCode::kUnavailable);
}

// One unary call by hand: these services come with the library, without headers.
grpc::Status RawCall(TestService& service, const std::string& method, const std::string& request,
                     std::string& response) {
  grpc::GenericStub stub(service.channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  const auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&slice, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->Finish(&answer, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) continue;
  grpc::Slice whole;
  if (status.ok() && answer.DumpToSingleSlice(&whole).ok()) {
    response.assign(reinterpret_cast<const char*>(whole.begin()), whole.size());
  }
  return status;
}

TEST_F(AccessTest, HealthIsToldByService) {
  TestService service;
  const auto health = [&](const std::string& name) {
    std::string response;
    const grpc::Status status = RawCall(
        service, "/grpc.health.v1.Health/Check",
        absl::StrCat("\x0a", std::string(1, static_cast<char>(name.size())), name), response);
    return status.ok() ? response : absl::StrCat("error ", status.error_code());
  };
  const std::string serving = "\x08\x01", not_serving = "\x08\x02";
  for (const char* name : {"cvxq.v1.QuantizationService", "google.longrunning.Operations", ""}) {
    EXPECT_EQ(health(name), serving) << name;
  }
  EXPECT_EQ(health("other"), "error 5");
  service.server_->SetServing(false);
  EXPECT_EQ(health("cvxq.v1.QuantizationService"), not_serving);
  service.server_->SetServing(true);
  EXPECT_EQ(health("cvxq.v1.QuantizationService"), serving);
}

// The library's own health service keeps streams open as long as clients do.
TEST_F(AccessTest, ShutdownWaitsForNoHealthWatch) {
  ServerOptions options;
  options.drain = absl::Milliseconds(50);
  TestService service(options);
  grpc::GenericStub stub(service.channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(&context, "/grpc.health.v1.Health/Watch", &queue);
  void* tag;
  bool ok;
  call->StartCall(nullptr);
  queue.Next(&tag, &ok);
  const grpc::Slice everything(std::string("\x0a\x00", 2));
  call->Write(grpc::ByteBuffer(&everything, 1), nullptr);
  queue.Next(&tag, &ok);
  call->WritesDone(nullptr);
  queue.Next(&tag, &ok);
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  queue.Next(&tag, &ok);
  EXPECT_TRUE(ok);
  service.server_->Shutdown();
  while (ok) {  // NOT_SERVING, then the end
    call->Read(&answer, nullptr);
    queue.Next(&tag, &ok);
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  queue.Next(&tag, &ok);
  EXPECT_FALSE(status.ok());
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) continue;
}

TEST_F(AccessTest, ReflectionIsThereWhenAskedFor) {
  for (const bool reflection : {false, true}) {
    ServerOptions options;
    options.reflection = reflection;
    TestService service(options);
    grpc::GenericStub stub(service.channel_);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const auto call = stub.PrepareCall(
        &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
    void* tag;
    bool ok;
    call->StartCall(nullptr);
    queue.Next(&tag, &ok);
    call->WritesDone(nullptr);
    queue.Next(&tag, &ok);
    grpc::Status status;
    call->Finish(&status, nullptr);
    queue.Next(&tag, &ok);
    EXPECT_EQ(status.error_code(), reflection ? grpc::OK : grpc::UNIMPLEMENTED);
    queue.Shutdown();
    while (queue.Next(&tag, &ok)) continue;
  }
}

}  // namespace
}  // namespace cvxq
