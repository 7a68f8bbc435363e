#include "pipeline/evaluate.h"

#include <cmath>

#include "gtest/gtest.h"
#include "tests/pipeline/quantize_job.h"

namespace cvxq {
namespace {

// Perplexities that the reference implementation gives for the same text, cut the same way.
TEST(EvaluateTest, ExampleModelsHaveTheirKnownPerplexity) {
  const std::pair<const char*, double> known[] = {{kModels[0], 16.0802}, {kModels[1], 16.5216}};
  for (const auto& [model, perplexity] : known) {
    EvaluateOptions options{.model = Example(model),
                            .texts = {std::string(CVXQ_SOURCE_DIR) + "/examples/text/kjv.test.txt"},
                            .reference = Example(model),
                            .seq_len = 256,
                            .max_sequences = 40};
    Progress progress(ProgressMode::kQuiet);
    const auto report = Evaluate(options, progress);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_NEAR(report->perplexity, perplexity, 0.00015) << model;
    EXPECT_EQ(report->texts[0].tokens, 40 * 255);
    EXPECT_EQ(report->texts[0].blocks, 40);
    EXPECT_NEAR(std::exp(report->texts[0].nll), report->perplexity, 1e-9);
    // Against itself a model has no divergence.
    EXPECT_EQ(report->reference_perplexity, report->perplexity);
    EXPECT_EQ(report->top1_agreement, 1);
    EXPECT_NEAR(report->kl_mean, 0, 1e-7);
  }
}

}  // namespace
}  // namespace cvxq
