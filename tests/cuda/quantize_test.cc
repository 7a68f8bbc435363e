// A whole job whose statistics and codes are made on the GPU, beside the CPU's.
#include "pipeline/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>

#include "pipeline/evaluate.h"
#include "tests/pipeline/scratch_folder.h"

namespace cvxq {
namespace {

// CVXQ_TEST_MODEL, where the sources are not on the machine.
std::string ExampleModel() {
  const char* folder = std::getenv("CVXQ_TEST_MODEL");
  return folder != nullptr ? folder
                           : std::string(CVXQ_SOURCE_DIR) + "/examples/models/kjv-llama-1m";
}

// gptq: of few tokens, and a rule that is quick where threads are fibers.
StatusOr<QuantizeReport> Quantise(BackendKind backend, const std::string& output) {
  QuantizeOptions options;
  options.model = ExampleModel();
  options.output = output;
  options.codec = CodecKind::kGptq;
  options.feedback = Feedback::kTwo;
  options.bits = 4;
  options.group = 64;
  options.calibration.samples = 2;
  options.calibration.seq_len = 16;
  options.backend = backend;
  options.threads = 2;
  Progress progress(ProgressMode::kQuiet);
  return Quantize(options, progress);
}

// Of what was written, from the original, on text of the King James Bible.
double Divergence(const ScratchFolder& scratch, const std::string& model) {
  EvaluateOptions options;
  options.model = model;
  options.reference = ExampleModel();
  options.texts = {scratch.Write("text",
                                 "And God said, Let there be light: and there was light. "
                                 "And God saw the light, that it was good.")};
  options.seq_len = 16;
  options.backend = BackendKind::kCpu;
  Progress progress(ProgressMode::kQuiet);
  const auto report = Evaluate(options, progress);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? report->kl_mean : NAN;
}

TEST(CudaQuantizeTest, AWholeJobIsAsGoodAsTheCpus) {
  if (!MakeCudaBackend().ok()) GTEST_SKIP() << MakeCudaBackend().status().message();
  const ScratchFolder scratch;
  const std::string cpu = scratch.path() + "/cpu", gpu = scratch.path() + "/gpu";
  const auto expected = Quantise(BackendKind::kCpu, cpu), made = Quantise(BackendKind::kCuda, gpu),
             again = Quantise(BackendKind::kCuda, gpu + "2");
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(made->backend, "cuda");
  EXPECT_NE(made->numerics_class, expected->numerics_class);
  EXPECT_EQ(made->sha256, again->sha256) << "the same bytes from run to run";
  EXPECT_EQ(made->bits_per_weight, expected->bits_per_weight);
  EXPECT_NEAR(Divergence(scratch, gpu) / Divergence(scratch, cpu), 1, 0.15);
}

}  // namespace
}  // namespace cvxq
