// Whole jobs whose disks are full: of what spills, of what jobs keep, of results, of the service's
// store. The disk is made full for single processes and paths by full_disk.cc.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/process.h"
#include "tests/cli/service_processes.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;
using Arguments = std::vector<std::string>;

const std::string kModel = std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m";

// While it lives, processes that are started have a full disk where paths begin with `prefix`.
class FullDisk {
 public:
  explicit FullDisk(const std::string& prefix, int64_t room = 0, const std::string& only_while = "")
      : variables_{{"LD_PRELOAD", CVXQ_FULL_DISK_LIBRARY},
                   {"CVXQ_FULL_DISK", prefix},
                   {"CVXQ_FULL_DISK_ROOM", std::to_string(room)},
                   {"CVXQ_FULL_DISK_WHILE", only_while}} {
    for (const auto& [name, value] : variables_) setenv(name.c_str(), value.c_str(), 1);
  }
  ~FullDisk() {
    for (const auto& [name, value] : variables_) unsetenv(name.c_str());
  }

 private:
  const std::map<std::string, std::string> variables_;
};

class FullDiskTest : public testing::Test {
 protected:
  FullDiskTest() {
    fs::create_directory(Path("m"));
    fs::create_directory(Path("tmp"));
    fs::copy(kModel, Path("m/model"));
  }

  std::string Path(const std::string& name) const { return scratch_.path() + "/" + name; }
  Arguments Quantize(const Arguments& more = {}) const {
    Arguments arguments = {
        "quantize", Path("m/model"), "--bits", "3",         "-o", Path("m/out"), "--samples",
        "8",        "--seq-len",     "32",     "--threads", "2",  "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  Arguments Submit(const std::string& output, const Arguments& more = {"--wait"}) const {
    Arguments arguments = {"submit", Path("m/model"), "--bits", "3",         "-o",
                           output,   "--samples",     "8",      "--seq-len", "32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  ServiceProcesses Start(const Arguments& more = {}) const {
    return ServiceProcesses("sqlite:" + Path("jobs.db"), Path("m"), Path("log"), more);
  }

  // Of a run that is not disturbed.
  static const json& Expected() {
    static const json* const expected = [] {
      const ScratchFolder folder;
      const ProcessResult result =
          Cvxq({"quantize", kModel, "--bits", "3", "-o", folder.path() + "/out", "--samples", "8",
                "--seq-len", "32", "--json"});
      EXPECT_EQ(result.code, 0) << result.err;
      return new json(json::parse(result.out)["sha256"]);
    }();
    return *expected;
  }
  static void ExpectDone(const json& job) {
    EXPECT_EQ(job.value("state", ""), "SUCCEEDED") << job;
    if (!job.contains("result")) return;
    EXPECT_EQ(job["result"]["sha256"], Expected());
  }
  static void ExpectFull(const json& job, const std::string& path) {
    EXPECT_EQ(job.value("state", ""), "FAILED") << job;
    if (!job.contains("error")) return;
    EXPECT_EQ(job["error"]["reason"], "OUT_OF_RESOURCES") << job;
    EXPECT_THAT(job["error"]["message"].get<std::string>(), HasSubstr(path));
    EXPECT_THAT(job["error"]["message"].get<std::string>(), HasSubstr("No space left on device"));
  }
  // What lies beside the model.
  std::vector<std::string> Beside(const std::string& folder) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(Path(folder))) {
      if (entry.path().filename() != "model") names.push_back(entry.path().filename());
    }
    return names;
  }

  ScratchFolder scratch_;
};

TEST_F(FullDiskTest, OfStatisticsAndOfTheResult) {
  for (const char* memory : {"0", "1GiB"}) {  // they spill, or all is kept in memory
    const FullDisk disk(Path("m/out.partial-"), 100'000);
    const ProcessResult result = Cvxq(Quantize({"--memory", memory}));
    EXPECT_EQ(result.code, 1);
    EXPECT_EQ(result.out, "");
    const std::string what = *memory == '0' ? "intermediate results" : "model.safetensors";
    EXPECT_THAT(result.err, HasSubstr(what));
    EXPECT_THAT(result.err, HasSubstr("No space left on device"));
    EXPECT_EQ(result.err.find("cvxq: "), result.err.rfind("cvxq: ")) << result.err;
    EXPECT_THAT(Beside("m"), IsEmpty());
  }
}

TEST_F(FullDiskTest, OfWhatAJobKeeps) {
  const FullDisk disk(Path("m/out.resume"), 300'000);
  const ProcessResult result = Cvxq(Quantize({"--save-every", "0"}));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("what is done cannot be kept"));
  EXPECT_EQ(json::parse(result.out)["sha256"], Expected());
  EXPECT_THAT(Beside("m"), testing::ElementsAre("out"));
}

TEST_F(FullDiskTest, OfOneJobsResultAndNotOfAnothers) {
  fs::create_directory(Path("m/full"));
  fs::create_directory(Path("m/free"));
  const FullDisk disk(Path("m/full/"), 100'000);
  const ServiceProcesses service = Start();
  service.Run(Submit(Path("m/full/a"), {"--id", "a"}));
  ExpectDone(service.Run(Submit(Path("m/free/b"))));
  ExpectFull(service.Run({"jobs", "a"}), Path("m/full/a"));
  EXPECT_THAT(Beside("m/full"), IsEmpty());
  EXPECT_THAT(Beside("m/free"), testing::ElementsAre("b"));
}

TEST_F(FullDiskTest, OfAWorker) {
  ServiceProcesses service = Start();
  {
    const FullDisk disk(Path("tmp/"), 100'000);
    service.StartWorker({"--memory", "8", "--spill", Path("tmp")});
  }
  ExpectFull(service.Run(Submit(Path("m/a"))), Path("tmp"));
  EXPECT_THAT(Beside("m"), IsEmpty());
  service.StartWorker();  // with room
  ExpectDone(service.Run(Submit(Path("m/b"))));
  EXPECT_EQ(service.Count("a worker failed at a stage"), 2u) << service.Log();
}

TEST_F(FullDiskTest, OfWhatAWorkerKeeps) {
  ServiceProcesses service = Start({"--save-every", "0"});
  {
    const FullDisk disk(Path("m/a.resume"), 300'000);
    service.StartWorker();
  }
  service.StartWorker();
  ExpectDone(service.Run(Submit(Path("m/a"), {"--wait", "--id", "a"})));
  EXPECT_THAT(Cvxq({"watch", "a", "--server", service.clients()}).err,
              HasSubstr("what is done cannot be kept"));
  ExpectDone(service.Run(Submit(Path("m/b"))));
  EXPECT_THAT(Beside("m"), testing::UnorderedElementsAre("a", "b"));
}

TEST_F(FullDiskTest, OfTheStore) {
  const FullDisk disk(Path("jobs.db"), 0, Path("full"));
  const ServiceProcesses service = Start();
  service.Run(Submit(Path("m/a"), {"--id", "a"}));
  std::ofstream(Path("full")) << "now";
  const json refused = service.Run(Submit(Path("m/b"), {"--id", "b"}));
  EXPECT_EQ(refused.value("code", 0), 1) << refused;
  EXPECT_THAT(refused.value("err", ""), HasSubstr("free some space"));
  EXPECT_EQ(service.Run({"jobs"})["jobs"].size(), 1u);  // reads go on
  fs::remove(Path("full"));
  ExpectDone(service.Run(Submit(Path("m/c"))));
  ExpectDone(service.Run({"watch", "a"}));
  EXPECT_EQ(service.Run({"jobs"})["jobs"].size(), 2u);
}

}  // namespace
}  // namespace cvxq
