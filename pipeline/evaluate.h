// Measuring a model on held-out text: perplexity, and the KL divergence from a reference model.
#ifndef CVXQ_PIPELINE_EVALUATE_H_
#define CVXQ_PIPELINE_EVALUATE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "model/model.h"
#include "nlohmann/json.hpp"

namespace cvxq {

struct EvaluateOptions {
  std::string model;
  std::vector<std::string> texts;
  std::optional<std::string> reference;
  int64_t seq_len = 2048;
  int64_t max_sequences = 0;  // blocks of each text; 0: all
  bool bf16 = false;          // products in BF16; the default is exact F32
  int threads = 0;
  BackendKind backend = BackendKind::kAuto;
};

struct TextResult {
  std::string path;
  int64_t blocks = 0, tokens = 0;  // tokens predicted
  double nll = 0;                  // mean, nats a token
  double perplexity = 0;           // e^nll
};

struct EvaluateReport {
  std::string model;
  std::optional<std::string> reference;
  std::vector<TextResult> texts;
  double perplexity = 0;  // over all predicted tokens
  // With a reference:
  double reference_perplexity = 0, kl_mean = 0, kl_p99 = 0, top1_agreement = 0;
  double seconds = 0, tokens_per_second = 0;

  nlohmann::ordered_json ToJson() const;
};

// Texts are cut in blocks as EvaluationBlocks says; in each block every token but the first is
// predicted from those before it. KL(reference || model) is in nats a token.
StatusOr<EvaluateReport> Evaluate(const EvaluateOptions& options, Progress& progress);

// Mean KL(reference || model), nats a token, over sequences of ids [sequences, seq_len]. Both
// models are on one backend and of one vocabulary.
StatusOr<double> MeanDivergence(Model& model, Model& reference, std::span<const int32_t> ids,
                                int64_t seq_len, Progress::Phase& progress);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_EVALUATE_H_
