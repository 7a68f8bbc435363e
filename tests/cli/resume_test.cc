// `cvxq quantize`, killed (kill -9) at one place after another, in the order in which a job comes
// by them, and begun again each time: the bytes of a run that nothing happened to, for codecs whose
// models are not cut into stages, and tuning.
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/files.h"
#include "tests/cli/process.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Arguments = std::vector<std::string>;

class KilledRunTest : public testing::Test {
 protected:
  ProcessResult Run(const std::string& output, const std::string& failpoint,
                    const Arguments& codec) {
    Arguments arguments = {
        "quantize",     std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m",
        "-o",           scratch_.path() + "/" + output,
        "--samples",    "130",  // two waves and a part of a third
        "--seq-len",    "64",
        "--save-every", "0"};
    arguments.insert(arguments.end(), codec.begin(), codec.end());
    if (!failpoint.empty()) setenv("CVXQ_FAILPOINT", failpoint.c_str(), 1);
    ProcessResult result = Cvxq(arguments);
    unsetenv("CVXQ_FAILPOINT");
    return result;
  }
  std::map<std::string, std::string> Sums(const std::string& output) {
    std::map<std::string, std::string> sums;
    for (const auto& entry : fs::directory_iterator(scratch_.path() + "/" + output)) {
      sums[entry.path().filename()] = *FileSha256(entry.path());
    }
    return sums;
  }
  void ExpectSameWhereKilledAt(const Arguments& places, const Arguments& codec) {
    ASSERT_EQ(Run("whole", "", codec).code, 0);
    for (size_t i = 0; i < places.size(); ++i) {
      const ProcessResult killed = Run("killed", places[i], codec);
      ASSERT_EQ(killed.code, 1009) << places[i] << "\n" << killed.err;
      if (i > 1) {  // something was whole by then
        EXPECT_THAT(killed.err, HasSubstr("going on behind")) << places[i];
      }
    }
    const ProcessResult last = Run("killed", "", codec);
    ASSERT_EQ(last.code, 0) << last.err;
    EXPECT_THAT(last.err, HasSubstr("going on behind"));
    EXPECT_EQ(Sums("killed"), Sums("whole"));
    EXPECT_FALSE(fs::exists(scratch_.path() + "/killed.resume"));
  }

  ScratchFolder scratch_;
};

TEST_F(KilledRunTest, GroupsAndIterations) {
  ExpectSameWhereKilledAt({"statistics-before-commit:2", "statistics-saved:4", "state-committed",
                           "sums-before-commit:3", "state-before-commit", "state-cleaned",
                           "averages-saved:2", "codes-before-commit:3", "codes-saved:2",
                           "state-cleaned", "codes-saved:3", "state-before-commit:2",
                           "averages-saved:3", "codes-before-commit:2", "output-before-publish"},
                          {"--codec", "lloyd", "--feedback", "none", "--iterations", "2",
                           "--grad-samples", "65", "--bits", "3"});
}

TEST_F(KilledRunTest, OneWidthAndTuning) {
  ExpectSameWhereKilledAt({"statistics-saved:2", "statistics-before-commit:2", "codes-saved:2",
                           "codes-before-commit:2", "state-before-commit", "tuning-before-commit",
                           "tuning-saved:2", "tuning-before-commit:2", "output-written"},
                          {"--codec", "owq", "--bits", "3", "--tune", "1"});
}

}  // namespace
}  // namespace cvxq
