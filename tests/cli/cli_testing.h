// What tests of the program as its users meet it share.
#ifndef CVXQ_TESTS_CLI_CLI_TESTING_H_
#define CVXQ_TESTS_CLI_CLI_TESTING_H_

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli/process.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {

namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;

inline const std::string kSource = CVXQ_SOURCE_DIR;
inline const std::string kModel = kSource + "/examples/models/kjv-llama-1m";
inline const std::string kText = kSource + "/examples/text/kjv.test.txt";

inline Arguments operator+(Arguments a, const Arguments& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline std::string Slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline std::string LastLine(const std::string& text) {
  const size_t end = text.find_last_not_of('\n');
  if (end == std::string::npos) return "";
  const size_t begin = text.rfind('\n', end);
  return text.substr(begin == std::string::npos ? 0 : begin + 1, end - begin);
}

class CliTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) const { return scratch_.path() + "/" + name; }
  Arguments Quantize(const std::string& model, const Arguments& more) const {
    return Arguments{"quantize",  model, "-o",        Path("box/out"),
                     "--samples", "8",   "--seq-len", "32"} +
           more;
  }
  CliTest() { fs::create_directory(Path("box")); }

  // A failure: this code, nothing on standard output, on standard error one line "cvxq: ..." (the
  // last, after what progress there was), with `part` in it; nothing left where the output goes.
  void ExpectFailure(const Arguments& arguments, int code, const std::string& part,
                     const ProcessOptions& options = {}) const {
    std::string trace;
    for (const std::string& word : arguments) trace += word + " ";
    SCOPED_TRACE(trace);
    const ProcessResult result = Cvxq(arguments, options);
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(LastLine(result.err), testing::StartsWith("cvxq: "));
    EXPECT_THAT(LastLine(result.err), testing::HasSubstr(part));
    EXPECT_THAT(result.err, testing::EndsWith("\n"));
    EXPECT_EQ(result.err.find("cvxq: "), result.err.rfind("cvxq: ")) << result.err;
    EXPECT_TRUE(fs::is_empty(Path("box"))) << "something is left in the output's folder";
  }

  // A copy of the example model to be spoilt.
  std::string CopyModel() const {
    const std::string folder = Path("model");
    fs::remove_all(folder);
    fs::copy(kModel, folder);
    return folder;
  }
  ScratchFolder scratch_;
};

}  // namespace cvxq

#endif  // CVXQ_TESTS_CLI_CLI_TESTING_H_
