// coordinator, submit, jobs, watch and cancel as processes, on a real model.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/background_process.h"
#include "tests/cli/process.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using Arguments = std::vector<std::string>;

const std::string kModel = std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m";

class ServiceCommandsTest : public testing::Test {
 protected:
  ServiceCommandsTest() {
    fs::create_directory(Path("models"));
    fs::copy(kModel, Path("models/m"));
    Start();
  }

  std::string Path(const std::string& name) const { return scratch_.path() + "/" + name; }
  std::string Log() const {
    std::ifstream file(Path("log"));
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  void Start() {
    coordinator_ = std::make_unique<BackgroundProcess>(
        Arguments{"coordinator", "--json", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0",
                  "--store", "sqlite:" + Path("jobs.db"), "--allow", Path("models")},
        Path("log"));
    const json addresses = json::parse(coordinator_->ReadUntil("}"), nullptr, false);
    ASSERT_TRUE(addresses.is_object()) << Log();
    address_ = addresses["address"];
    metrics_ = addresses["metrics"];
  }

  ProcessResult Run(Arguments arguments, const ProcessOptions& options = {}) const {
    arguments.insert(arguments.end(), {"--server", address_});
    return Cvxq(arguments, options);
  }
  json RunJson(Arguments arguments, int code) const {
    arguments.push_back("--json");
    const ProcessResult result = Run(arguments);
    EXPECT_EQ(result.code, code) << result.err << Log();
    const json document = json::parse(result.out, nullptr, false);
    EXPECT_TRUE(document.is_object()) << result.out;
    return document;
  }
  // A job that takes a second, or one that takes far longer than the test.
  Arguments Submit(const std::string& id, bool quick, const Arguments& more = {}) const {
    Arguments arguments = {"submit",    Path("models/m"),
                           "-o",        Path("models/" + id),
                           "--id",      id,
                           "--bits",    "3",
                           "--samples", quick ? "8" : "100000",
                           "--seq-len", "32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  void WaitUntil(const std::string& id, const std::string& state) const {
    while (RunJson({"jobs", id}, 0)["state"] != state) usleep(20'000);
  }
  // The answer to one GET from the metrics port.
  std::string Fetch(const std::string& path) const {
    const int connection = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port =
        htons(static_cast<uint16_t>(std::stoi(metrics_.substr(metrics_.rfind(':') + 1))));
    std::string answer;
    if (connect(connection, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
      const std::string request = "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n";
      EXPECT_EQ(send(connection, request.data(), request.size(), MSG_NOSIGNAL),
                static_cast<ssize_t>(request.size()));
      char buffer[4096];
      for (ssize_t count; (count = recv(connection, buffer, sizeof(buffer), 0)) > 0;) {
        answer.append(buffer, static_cast<size_t>(count));
      }
    }
    close(connection);
    return answer;
  }

  ScratchFolder scratch_;
  std::unique_ptr<BackgroundProcess> coordinator_;
  std::string address_, metrics_;
};

TEST_F(ServiceCommandsTest, SubmitsWatchesAndListsJobs) {
  const json job = RunJson(Submit("a", true, {"--wait"}), 0);
  EXPECT_EQ(job["name"], "projects/default/quantizeModelJobs/a");
  EXPECT_EQ(job["state"], "SUCCEEDED");
  EXPECT_EQ(job["percent"], 100);
  EXPECT_TRUE(job["error"].is_null());
  // The same bytes as without the service.
  const ProcessResult local = Cvxq({"quantize", kModel, "-o", Path("local"), "--bits", "3",
                                    "--samples", "8", "--seq-len", "32", "--json"});
  ASSERT_EQ(local.code, 0) << local.err;
  const json report = json::parse(local.out);
  EXPECT_EQ(job["result"]["sha256"], report["sha256"]);
  EXPECT_EQ(job["result"]["bits_per_weight"], report["bits_per_weight"]);

  const json listed = RunJson({"jobs"}, 0);
  ASSERT_EQ(listed["jobs"].size(), 1u);
  EXPECT_EQ(listed["jobs"][0], RunJson({"jobs", "a"}, 0));
  const ProcessResult watched = Run({"watch", "a"});
  EXPECT_EQ(watched.code, 0) << watched.err;
  EXPECT_THAT(watched.err, HasSubstr("gradients"));
  EXPECT_THAT(watched.err, HasSubstr("SUCCEEDED"));
  const ProcessResult late = Run({"cancel", "a"});
  EXPECT_EQ(late.code, 1);
  EXPECT_THAT(late.err, HasSubstr("cvxq: projects/default/quantizeModelJobs/a is SUCCEEDED"));

  EXPECT_THAT(Fetch("/metrics"), HasSubstr("cvxq_jobs{state=\"succeeded\"} 1"));
  EXPECT_THAT(Fetch("/healthz"), HasSubstr(" 200 "));
  EXPECT_THAT(Fetch("/readyz?x"), HasSubstr(" 200 "));
  EXPECT_THAT(Fetch("/"), HasSubstr(" 404 "));
  EXPECT_EQ(coordinator_->Stop(SIGTERM), 0);
  std::istringstream lines(Log());
  for (std::string line; std::getline(lines, line);) {
    const json entry = json::parse(line, nullptr, false);
    ASSERT_TRUE(entry.is_object()) << line;
    for (const char* key : {"time", "level", "message"}) EXPECT_TRUE(entry.contains(key)) << line;
  }
}

TEST_F(ServiceCommandsTest, FailuresHaveOneLineAndACode) {
  const auto expect = [this](const Arguments& arguments, int code, const std::string& part) {
    const ProcessResult result = Run(arguments);
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, testing::StartsWith("cvxq: "));
    EXPECT_THAT(result.err, HasSubstr(part));
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  };
  expect({"submit", "m", "-o", "o"}, 2, "--bits");
  expect({"submit", Path("models/m"), "-o", Path("models/x"), "--bits", "9"}, 2, "spec.bits");
  expect({"submit", "/etc", "-o", Path("models/x"), "--bits", "3"}, 1, "--allow");
  expect({"submit", "gs://bucket/m", "-o", Path("models/x"), "--bits", "3"}, 1, "file://");
  expect({"submit", Path("models/none"), "-o", Path("models/x"), "--bits", "3", "--validate-only"},
         1, "none");
  expect({"jobs", "none"}, 1, "there is no job");
  expect({"jobs", "No such"}, 2, "no name of a job");
  expect({"cancel", "none"}, 1, "there is no job");

  const json job =
      RunJson({"submit", Path("models/none"), "-o", Path("models/x"), "--bits", "3", "--wait"}, 1);
  EXPECT_EQ(job["state"], "FAILED");
  EXPECT_EQ(job["error"]["reason"], "FILE_NOT_FOUND");

  const ProcessResult open = Cvxq({"coordinator", "--listen", "0.0.0.0:0", "--store",
                                   "sqlite:" + Path("other.db"), "--allow", Path("models")});
  EXPECT_EQ(open.code, 2);
  EXPECT_THAT(open.err, HasSubstr("--tls-client-ca"));
}

TEST_F(ServiceCommandsTest, InterruptDetachesAndTheJobGoesOn) {
  ProcessOptions options;
  options.signal_at_first_stderr = SIGINT;
  const ProcessResult result = Run(Submit("a", false, {"--wait"}), options);
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_THAT(result.err, HasSubstr("cvxq watch"));
  const std::string state = RunJson({"jobs", "a"}, 0)["state"];
  EXPECT_THAT(state, testing::AnyOf("QUEUED", "PREPARING", "RUNNING"));
  EXPECT_EQ(RunJson({"cancel", "a"}, 0)["name"], "projects/default/quantizeModelJobs/a");
  const ProcessResult watched = Run({"watch", "a"});
  EXPECT_EQ(watched.code, 1);
  EXPECT_THAT(watched.err, HasSubstr("was cancelled"));
  EXPECT_FALSE(fs::exists(Path("models/a")));
}

TEST_F(ServiceCommandsTest, JobsSurviveAKilledCoordinator) {
  RunJson(Submit("long", false), 0);
  RunJson(Submit("short", true), 0);
  WaitUntil("long", "RUNNING");
  coordinator_->Stop(SIGKILL);
  Start();
  WaitUntil("long", "RUNNING");
  EXPECT_EQ(RunJson({"jobs", "long"}, 0)["attempt"], 2);
  RunJson({"cancel", "long"}, 0);
  EXPECT_EQ(Run({"watch", "short"}).code, 0);
  EXPECT_EQ(RunJson({"jobs", "short"}, 0)["state"], "SUCCEEDED");
  EXPECT_TRUE(fs::exists(Path("models/short/config.json")));
}

TEST_F(ServiceCommandsTest, AnotherCoordinatorTakesOver) {
  RunJson(Submit("long", false), 0);
  WaitUntil("long", "RUNNING");
  const std::unique_ptr<BackgroundProcess> old = std::move(coordinator_);
  Start();
  EXPECT_EQ(old->Stop(0), 1);  // it ends by itself
  EXPECT_THAT(Log(), HasSubstr("another coordinator has taken over"));
  RunJson({"cancel", "long"}, 0);
  EXPECT_EQ(Run({"watch", "long"}).code, 1);
  EXPECT_FALSE(fs::exists(Path("models/long")));
}

}  // namespace
}  // namespace cvxq
