// Commands on models in a bucket: the same bytes as with folders, and one line for each thing that
// can be wrong.
#include <cstdlib>
#include <fstream>
#include <memory>

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/cli/background_process.h"
#include "tests/cli/test_on_bucket.h"

namespace cvxq {
namespace {

using testing::HasSubstr;

using ObjectCommandsTest = TestOnBucket;

TEST_F(ObjectCommandsTest, QuantizeMakesTheSameFilesAsInAFolder) {
  const ProcessResult local = Cvxq(Quantize(kModel, Path("out")));
  ASSERT_EQ(local.code, 0) << local.err;
  const ProcessResult remote = Cvxq(Quantize("s3://bucket/models/llama", "s3://bucket/out/llama"));
  ASSERT_EQ(remote.code, 0) << remote.err;
  // Each byte of the model is read once.
  int64_t bytes = 0;
  for (const auto& [name, contents] : Below("models/llama/")) bytes += contents.size();
  // Tokenizer files twice: to be used and to be copied.
  EXPECT_LT(s3_.body_bytes_sent(), bytes * 1.01 + 80'000);
  const auto objects = Below("out/llama/");
  ASSERT_TRUE(objects.contains("manifest.json"));
  const auto manifest = nlohmann::json::parse(objects.at("manifest.json"));
  const std::string folder = manifest["folder"];
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(Path("out"))) {
    const std::string name = entry.path().filename();
    EXPECT_TRUE(objects.at(folder + "/" + name) == Slurp(entry.path())) << name;
    ++files;
  }
  EXPECT_EQ(objects.size(), files + 1) << "scratch objects are left";

  const std::string text = kSource + "/examples/text/kjv.test.txt";
  const Arguments how = {"--text", text, "--seq-len", "64", "--max-sequences", "8", "--json"};
  const auto eval = [&](const std::string& model, const std::string& reference) {
    Arguments arguments = {"eval", model, "--reference", reference};
    arguments.insert(arguments.end(), how.begin(), how.end());
    const ProcessResult result = Cvxq(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return nlohmann::json::parse(result.out)["kl_mean"];
  };
  EXPECT_EQ(eval("s3://bucket/out/llama", "s3://bucket/models/llama"), eval(Path("out"), kModel));
  const ProcessResult inspected = Cvxq({"inspect", "s3://bucket/out/llama/", "--json"});
  EXPECT_EQ(inspected.code, 0) << inspected.err;
  EXPECT_EQ(nlohmann::json::parse(inspected.out)["file_bytes"], manifest["facts"]["file_bytes"]);
  const ProcessResult written =
      Cvxq({"generate", "s3://bucket/out/llama", "-p", "In the", "-n", "4"});
  EXPECT_EQ(written.code, 0) << written.err;
}

// Servers that are busy, broken, or cut their answers short, in the middle of a job.
TEST_F(ObjectCommandsTest, FaultsChangeNothing) {
  const auto manifest = [this](const std::string& output) {
    const auto objects = Below(output + "/");
    return objects.contains("manifest.json") ? objects.at("manifest.json") : "";
  };
  ASSERT_EQ(Cvxq(Quantize("s3://bucket/models/llama", "s3://bucket/out/a")).code, 0);
  s3_.Break(S3Op::kGet, {.kind = S3Fault::kAnswer, .status = 503, .text = "SlowDown"}, 3);
  s3_.Break(S3Op::kGet, {.kind = S3Fault::kTruncated}, 5);
  s3_.Break(S3Op::kGet, {.kind = S3Fault::kAnswer, .status = 500, .text = "InternalError"}, 2);
  s3_.Break(S3Op::kGet, {.kind = S3Fault::kResetAfter}, 2);
  s3_.Break(S3Op::kList, {.kind = S3Fault::kResetBefore}, 2);
  s3_.Break(S3Op::kHead, {.kind = S3Fault::kAnswer, .status = 503, .text = ""}, 2);
  // Lost replies to writes that were done, among them perhaps the manifest's.
  s3_.Break(S3Op::kPut, {.kind = S3Fault::kLostReply}, 2);
  s3_.Break(S3Op::kPut, {.kind = S3Fault::kAnswer, .status = 503, .text = "SlowDown"}, 3);
  const ProcessResult result = Cvxq(Quantize("s3://bucket/models/llama", "s3://bucket/out/b"));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(manifest("out/b"), manifest("out/a"));
  EXPECT_NE(manifest("out/a"), "");
}

TEST_F(ObjectCommandsTest, AKilledRunGoesOnFromItsBucket) {
  const auto quantize = [&](const std::string& output) {
    Arguments arguments = Quantize("s3://bucket/models/llama", "s3://bucket/" + output);
    arguments.insert(arguments.end(), {"--save-every", "0"});
    return Cvxq(arguments);
  };
  ASSERT_EQ(quantize("out/a").code, 0);
  setenv("CVXQ_FAILPOINT", "codes-saved:6", 1);
  const ProcessResult killed = quantize("out/b");
  unsetenv("CVXQ_FAILPOINT");
  EXPECT_EQ(killed.code, 1009) << killed.err;
  EXPECT_THAT(Below("out/b/"), testing::Not(testing::IsEmpty()));
  EXPECT_FALSE(Below("out/b/").contains("manifest.json"));
  const ProcessResult again = quantize("out/b");
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.err, HasSubstr("going on behind statistics"));
  EXPECT_EQ(Below("out/b/"), Below("out/a/")) << "something is left of what was kept";
  EmptyScratch();
}

// Model, result and what is kept meanwhile in a bucket; a worker dies, and so does the coordinator.
TEST_F(ObjectCommandsTest, AServiceOnABucket) {
  const ProcessResult alone = Cvxq(Quantize("s3://bucket/models/llama", "s3://bucket/out/a"));
  ASSERT_EQ(alone.code, 0) << alone.err;
  std::string clients = "127.0.0.1:0", workers = "127.0.0.1:0";
  const auto start = [&](const std::string& failpoint, Arguments arguments) {
    if (!failpoint.empty()) setenv("CVXQ_FAILPOINT", failpoint.c_str(), 1);
    auto process = std::make_unique<BackgroundProcess>(arguments, Path("log"));
    unsetenv("CVXQ_FAILPOINT");
    return process;
  };
  const auto coordinator = [&](const std::string& failpoint) {
    auto process =
        start(failpoint, {"coordinator", "--json", "--listen", clients, "--listen-workers", workers,
                          "--settle", "1", "--store", "sqlite:" + Path("jobs.db"), "--allow",
                          "s3://bucket", "--save-every", "0"});
    const auto addresses = nlohmann::json::parse(process->ReadUntil("}"), nullptr, false);
    EXPECT_TRUE(addresses.is_object()) << Slurp(Path("log"));
    clients = addresses.value("address", clients);
    workers = addresses.value("workers", workers);
    return process;
  };
  auto first = coordinator("step-done:8");
  std::vector<std::unique_ptr<BackgroundProcess>> started;
  for (const char* failpoint : {"stage-before-moments", ""}) {
    started.push_back(start(failpoint, {"worker", "--coordinator", workers, "--threads", "1"}));
  }
  // Both are to have a stage.
  const auto come = [&] {
    const std::string log = Slurp(Path("log"));
    const size_t one = log.find("a worker has come");
    return one != std::string::npos && log.find("a worker has come", one + 1) != std::string::npos;
  };
  for (int i = 0; i < 3000 && !come(); ++i) usleep(10'000);
  ASSERT_TRUE(come()) << Slurp(Path("log"));
  const ProcessResult submitted =
      Cvxq({"submit", "s3://bucket/models/llama", "-o", "s3://bucket/out/b", "--bits", "3", "--id",
            "job", "--samples", "8", "--seq-len", "32", "--server", clients});
  ASSERT_EQ(submitted.code, 0) << submitted.err;
  EXPECT_EQ(first->Stop(0), 1009);  // it dies there by itself
  const auto second = coordinator("");
  const ProcessResult watched = Cvxq({"watch", "job", "--server", clients});
  EXPECT_EQ(watched.code, 0) << watched.err << Slurp(Path("log"));
  EXPECT_EQ(started[0]->Stop(0), 1009);
  EXPECT_THAT(Slurp(Path("log")), HasSubstr("stage ready"));
  auto made = Below("out/b/");
  EXPECT_EQ(made, Below("out/a/"));
  started.clear();
  EmptyScratch();
}

TEST_F(ObjectCommandsTest, EachMistakeHasOneLine) {
  const std::string model = "s3://bucket/models/llama", output = "s3://bucket/out/x";
  const auto expect = [&](const Arguments& arguments, int code, const std::string& part,
                          const ProcessOptions& options = {}) {
    const ProcessResult result = Cvxq(arguments, options);
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr("cvxq: "));
    EXPECT_THAT(result.err, HasSubstr(part));
    EXPECT_THAT(result.err, testing::Not(HasSubstr(FakeS3::kSecret)));
    EXPECT_THAT(Below("out/x/"), testing::Not(testing::Contains(testing::Key("manifest.json"))));
  };
  const auto answer = [](int status, const char* code) {
    return S3Fault{.kind = S3Fault::kAnswer, .status = status, .text = code};
  };
  expect(Quantize("s3://bucket/none", output), 1, "s3://bucket/none does not exist");
  s3_.Break(S3Op::kList, answer(404, "NoSuchBucket"));
  expect(Quantize(model, output), 1, "check the bucket's name");
  expect(Quantize("s3://bucket/../x", output), 2, "another folder");
  expect(Quantize(model, "s3://bucket/models/llama/out"), 2, "choose another name");
  Arguments overwrite = Quantize(model, output);
  overwrite.push_back("--overwrite");
  expect(overwrite, 2, "--overwrite");

  s3_.Break(S3Op::kList, answer(403, "AccessDenied"));
  expect(Quantize(model, output), 1, "AccessDenied");
  s3_.Break(S3Op::kPut, answer(403, "AccessDenied"), 1000);
  expect(Quantize(model, output), 1, "AccessDenied");
  s3_.Mend(S3Op::kPut);
  s3_.set_conditions(S3Conditions::kIgnored);
  expect(Quantize(model, output), 1, "If-None-Match");
  s3_.set_conditions(S3Conditions::kAtomic);

  // Read while it is written to: the first answers are slow, then another object is there.
  s3_.Break(S3Op::kGet, {.kind = S3Fault::kDrip}, 9);
  s3_.Break(S3Op::kGet, {.kind = S3Fault::kReplaced, .text = "another"});
  expect(Quantize(model, Path("folder")), 1, "changed");
  EXPECT_FALSE(fs::exists(Path("folder")));
  s3_.Mend(S3Op::kGet);
  s3_.Put("models/llama/model.safetensors", Slurp(kModel + "/model.safetensors"));

  // A limit on the size of files stands for a full disk.
  expect(Quantize(model, output), 1, Path("tmp"), {.file_size_limit = 100'000});

  const std::string weights = Slurp(kModel + "/model.safetensors");
  s3_.Put("models/llama/model.safetensors", weights.substr(0, weights.size() / 2));
  expect(Quantize(model, output), 1, "cut short");
  s3_.Put("models/llama/config.json", "{");
  expect(Quantize(model, output), 1, "s3://bucket/models/llama/config.json");
  s3_.Put("out/y/manifest.json", "{}");
  expect({"inspect", "s3://bucket/out/y"}, 1, "s3://bucket/out/y/manifest.json");
}

TEST_F(ObjectCommandsTest, AnOutputIsNeverReplaced) {
  s3_.Put("out/x/manifest.json", "{}");
  const ProcessResult result = Cvxq(Quantize("s3://bucket/models/llama", "s3://bucket/out/x"));
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("s3://bucket/out/x exists"));
  EXPECT_EQ(Below("out/x/").at("manifest.json"), "{}");
}

TEST_F(ObjectCommandsTest, WithoutCredentials) {
  for (const char* name : {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}) {
    unsetenv(name);
  }
  const ProcessResult result = Cvxq({"inspect", "s3://bucket/models/llama"});
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.err, HasSubstr("s3://bucket/models/llama"));
  EXPECT_THAT(result.err, HasSubstr("AWS_ACCESS_KEY_ID"));
  complains_ = true;
}

// Texts too may lie in a bucket; a folder's address may be written as file://.
TEST_F(ObjectCommandsTest, TextsInBuckets) {
  const std::string text = Slurp(kSource + "/examples/text/kjv.test.txt");
  s3_.Put("texts/a.txt", text);
  s3_.Put("texts/.hidden.txt", std::string(100, '\0'));
  s3_.Put("texts/picture.png", std::string(100, '\0'));
  std::ofstream(Path("a.txt"), std::ios::binary) << text;
  const auto run = [this](const std::string& calib, const std::string& out) {
    Arguments arguments = Quantize("file://" + kModel, "file://" + Path(out));
    arguments.insert(arguments.end(), {"--calib", calib});
    const ProcessResult result = Cvxq(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    return Slurp(Path(out) + "/model.safetensors");
  };
  const std::string expected = run(Path("a.txt"), "x");
  EXPECT_TRUE(run("s3://bucket/texts/a.txt", "y") == expected);
  EXPECT_TRUE(run("s3://bucket/texts:2.5", "z") == expected);
  s3_.Put("texts/ids.npy", "x");
  const ProcessResult ids = Cvxq({"eval", kModel, "--text", "s3://bucket/texts/ids.npy"});
  EXPECT_EQ(ids.code, 1);
  EXPECT_THAT(ids.err, HasSubstr("token ids"));
}

}  // namespace
}  // namespace cvxq
