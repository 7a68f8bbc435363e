// Whole jobs with model, text, result and what is kept meanwhile in a bucket whose server fails
// all the time, or forbids things in the middle.
#include <cstdlib>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/cli/service_processes.h"
#include "tests/cli/test_on_bucket.h"

namespace cvxq {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Key;
using testing::Not;

constexpr char kBucketModel[] = "s3://bucket/models/llama";

class ObjectFaultsTest : public TestOnBucket {
 protected:
  ObjectFaultsTest() {
    fs::copy(kModel, Path("model"));
    const std::string text = Slurp(kSource + "/examples/text/kjv.test.txt");
    std::ofstream(Path("a.txt"), std::ios::binary) << text;
    s3_.Put("texts/a.txt", text);
  }
  ServiceProcesses Start() const {
    return ServiceProcesses("sqlite:" + Path("jobs.db"), "s3://bucket", Path("log"),
                            {"--save-every", "0"});
  }
  static Arguments With(Arguments arguments, const Arguments& more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  static Arguments Submit(const std::string& output, const Arguments& more = {"--wait"}) {
    return With({"submit", kBucketModel, "--bits", "3", "-o", output, "--samples", "8", "--seq-len",
                 "32", "--calib", "s3://bucket/texts/a.txt"},
                more);
  }
  static Arguments QuantizeThere(const std::string& output) {
    return With(Quantize(kBucketModel, output),
                {"--calib", "s3://bucket/texts/a.txt", "--save-every", "0"});
  }
  // The files of the same job on folders.
  std::map<std::string, std::string> Expected() const {
    const ProcessResult result =
        Cvxq(With(Quantize(Path("model"), Path("out")), {"--calib", Path("a.txt")}));
    EXPECT_EQ(result.code, 0) << result.err;
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(Path("out"))) {
      files[entry.path().filename()] = Slurp(entry.path());
    }
    return files;
  }
  // Of a whole output at `prefix`; nothing else may lie there.
  std::map<std::string, std::string> Published(const std::string& prefix) const {
    const auto objects = Below(prefix);
    const auto found = objects.find("manifest.json");
    if (found == objects.end()) return {};
    const std::string folder = json::parse(found->second)["folder"];
    std::map<std::string, std::string> files = Below(prefix + folder + "/");
    EXPECT_EQ(objects.size(), files.size() + 1) << "something is left of what was kept";
    return files;
  }
  void ExpectSame(const std::string& prefix,
                  const std::map<std::string, std::string>& expected) const {
    const auto files = Published(prefix);
    for (const auto& [name, bytes] : expected) {
      EXPECT_TRUE(files.contains(name) && files.at(name) == bytes) << prefix << " " << name;
    }
    EXPECT_EQ(files.size(), expected.size());
  }
};

// CVXQ_FAULT_SEEDS=N tries N seeds instead of one.
TEST_F(ObjectFaultsTest, JobsAmongRandomFaultsGiveTheSameFiles) {
  // A file that takes several parts to read and to write, at the size that a part has.
  const std::string padding(18 << 20, '\n');
  std::ofstream(Path("model/tokenizer.json"), std::ios::app) << padding;
  s3_.Put("models/llama/tokenizer.json", Slurp(Path("model/tokenizer.json")));
  const auto expected = Expected();
  const char* variable = std::getenv("CVXQ_FAULT_SEEDS");
  const int seeds = variable == nullptr ? 1 : std::atoi(variable);
  ASSERT_GT(seeds, 0);
  for (int seed = 0; seed < seeds; ++seed) {
    SCOPED_TRACE(seed);
    s3_.BreakAtRandom(static_cast<uint64_t>(seed));
    s3_.Break(S3Op::kComplete, {S3Fault::kErrorIn200, 0, "InternalError"});
    s3_.Break(S3Op::kPutPart, {S3Fault::kResetAfter});
    const int before = s3_.faults();
    const std::string local = "out/local" + std::to_string(seed);
    const ProcessResult result = Cvxq(QuantizeThere("s3://bucket/" + local));
    EXPECT_EQ(result.code, 0) << result.err;
    ExpectSame(local + "/", expected);

    ServiceProcesses service = Start();
    service.StartWorker();
    service.StartWorker();
    const std::string remote = "out/remote" + std::to_string(seed);
    const json job = service.Run(Submit("s3://bucket/" + remote));
    EXPECT_EQ(job.value("state", ""), "SUCCEEDED") << job << service.Log();
    ExpectSame(remote + "/", expected);
    EXPECT_GT(s3_.faults() - before, 100);
    if (HasFailure()) break;
  }
  EmptyScratch();
}

TEST_F(ObjectFaultsTest, AStateThatMayNotBeWrittenIsDoneWithout) {
  const auto expected = Expected();
  s3_.Deny(S3Op::kPut, "out/x/resume", 5);
  const ProcessResult result = Cvxq(QuantizeThere("s3://bucket/out/x"));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("what is done cannot be kept"));
  EXPECT_THAT(result.err, HasSubstr("AccessDenied"));
  ExpectSame("out/x/", expected);

  ServiceProcesses service = Start();
  service.StartWorker();
  service.StartWorker();
  s3_.Deny(S3Op::kPut, "out/job/resume", 5);
  const json job = service.Run(Submit("s3://bucket/out/job", {"--wait", "--id", "job"}));
  EXPECT_EQ(job.value("state", ""), "SUCCEEDED") << job << service.Log();
  EXPECT_THAT(Cvxq({"watch", "job", "--server", service.clients()}).err,
              HasSubstr("what is done cannot be kept"));
  ExpectSame("out/job/", expected);
  EmptyScratch();
}

TEST_F(ObjectFaultsTest, AnOutputThatMayNotBeWrittenIsOneError) {
  const ProcessResult good = Cvxq(QuantizeThere("s3://bucket/out/a"));
  ASSERT_EQ(good.code, 0) << good.err;
  const auto expected = Published("out/a/");
  const std::string folder = json::parse(Below("out/a/")["manifest.json"])["folder"];

  s3_.Deny(S3Op::kPut, "out/b/" + folder, 2);  // all but two of the files
  const ProcessResult result = Cvxq(QuantizeThere("s3://bucket/out/b"));
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("cvxq: cannot write s3://bucket/out/b/" + folder));
  EXPECT_THAT(result.err, HasSubstr("HTTP 403 AccessDenied"));
  EXPECT_EQ(result.err.find("cvxq: "), result.err.rfind("cvxq: ")) << result.err;
  EXPECT_THAT(Below("out/b/"), Not(Contains(Key("manifest.json"))));

  ServiceProcesses service = Start();
  s3_.Deny(S3Op::kPut, "out/c/manifest.json");
  json job = service.Run(Submit("s3://bucket/out/c"));
  EXPECT_EQ(job.value("state", ""), "FAILED") << job;
  EXPECT_EQ(job["error"]["reason"], "FILE_DENIED");
  EXPECT_THAT(job["error"]["message"].get<std::string>(),
              HasSubstr("s3://bucket/out/c/manifest.json: HTTP 403 AccessDenied"));
  EXPECT_THAT(Below("out/c/"), Not(Contains(Key("manifest.json"))));
  job = service.Run(Submit("s3://bucket/out/d"));  // others go on
  EXPECT_EQ(job.value("state", ""), "SUCCEEDED") << job << service.Log();
  ExpectSame("out/d/", expected);
  EmptyScratch();
}

TEST_F(ObjectFaultsTest, AModelThatMayNotBeReadAnyMoreIsOneError) {
  ServiceProcesses service = Start();
  service.StartWorker();
  service.StartWorker();
  s3_.Deny(S3Op::kGet, "models/llama/model.safetensors", 20);
  const json job = service.Run(Submit("s3://bucket/out/a"));
  EXPECT_EQ(job.value("state", ""), "FAILED") << job;
  EXPECT_EQ(job["error"]["reason"], "FILE_DENIED");
  EXPECT_THAT(job["error"]["message"].get<std::string>(),
              HasSubstr(std::string(kBucketModel) + "/model.safetensors: HTTP 403 AccessDenied"));
  EXPECT_THAT(Below("out/a/"), IsEmpty());
  EmptyScratch();
}

}  // namespace
}  // namespace cvxq
