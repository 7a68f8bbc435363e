// Commands on an example model in a bucket of the fake S3 server.
#ifndef CVXQ_TESTS_CLI_TEST_ON_BUCKET_H_
#define CVXQ_TESTS_CLI_TEST_ON_BUCKET_H_

#include <cstdlib>
#include <map>
#include <string>

#include "gtest/gtest.h"
#include "tests/cli/cli_testing.h"
#include "tests/storage/fake_s3.h"

namespace cvxq {

class TestOnBucket : public testing::Test {
 protected:
  TestOnBucket() {
    s3_.SetEnvironment();
    fs::create_directory(Path("tmp"));
    setenv("TMPDIR", Path("tmp").c_str(), 1);
    for (const auto& entry : fs::directory_iterator(kModel)) {
      s3_.Put("models/llama/" + entry.path().filename().string(), Slurp(entry.path()));
    }
  }
  ~TestOnBucket() override {
    EXPECT_TRUE(fs::is_empty(Path("tmp"))) << "something is left in the scratch folder";
    EXPECT_EQ(s3_.complaints().empty(), !complains_);
    unsetenv("TMPDIR");
  }

  std::string Path(const std::string& name) const { return scratch_.path() + "/" + name; }
  static Arguments Quantize(const std::string& model, const std::string& output) {
    return {"quantize",  model, "--bits",    "3",  "-o",        output,
            "--samples", "8",   "--seq-len", "32", "--threads", "2"};
  }
  // The objects below a prefix, by what follows it.
  std::map<std::string, std::string> Below(const std::string& prefix) const {
    std::map<std::string, std::string> found;
    for (const auto& [key, bytes] : s3_.objects()) {
      if (key.starts_with(prefix)) found[key.substr(prefix.size())] = bytes;
    }
    return found;
  }

  // Of what killed processes leave there.
  void EmptyScratch() const {
    for (const auto& entry : fs::directory_iterator(Path("tmp"))) fs::remove_all(entry);
  }

  FakeS3 s3_;
  ScratchFolder scratch_;
  bool complains_ = false;  // the server, as it should
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_CLI_TEST_ON_BUCKET_H_
