#include "pipeline/evaluate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/strings/str_format.h"
#include "base/interrupt.h"
#include "base/thread_pool.h"
#include "model/model.h"
#include "pipeline/calibration.h"
#include "pipeline/gradients.h"
#include "pipeline/model_files.h"

namespace cvxq {
namespace {

constexpr int64_t kHeadTokens = 256;  // rows of logits at a time
constexpr int64_t kResidentBytes = int64_t{8} << 30;

// Sums over one text.
struct Sums {
  double nll = 0, reference_nll = 0, agree = 0;
  int64_t tokens = 0;
};

class Evaluator {
 public:
  Evaluator(Model& model, Model* reference) : model_(model), reference_(reference) {}

  // Blocks [first, first + count) of a set.
  Status RunWave(const EvaluationSet& set, int64_t first, int64_t count, Sums& sums) {
    Backend& backend = model_.backend();
    const int64_t T = set.seq_len;
    const Wave wave{.B = count, .T = T};
    const int32_t* ids = &set.ids[first * T];
    Tensor id_tensor = backend.Allocate(DType::kI32, {wave.rows()});
    backend.Upload(ids, id_tensor);
    CVXQ_ASSIGN_OR_RETURN(const Tensor hidden, model_.Forward(wave, id_tensor));
    Tensor reference_hidden;
    if (reference_ != nullptr) {
      CVXQ_ASSIGN_OR_RETURN(reference_hidden, reference_->Forward(wave, id_tensor));
    }
    // Row t predicts the id at t + 1; the last row of a block predicts nothing.
    for (int64_t b = 0; b < count; ++b) {
      for (int64_t t = 0; t < T - 1; t += kHeadTokens) {
        const int64_t rows = std::min(kHeadTokens, T - 1 - t), begin = b * T + t;
        CVXQ_RETURN_IF_ERROR(
            Score(hidden.Rows(begin, begin + rows),
                  reference_ == nullptr ? Tensor() : reference_hidden.Rows(begin, begin + rows),
                  ids + begin + 1, rows, sums));
      }
    }
    return absl::OkStatus();
  }

  std::vector<float>& kl() { return kl_; }

 private:
  Status Score(const Tensor& hidden, const Tensor& reference_hidden, const int32_t* targets,
               int64_t rows, Sums& sums) {
    Backend& backend = model_.backend();
    Tensor target = backend.Allocate(DType::kI32, {rows});
    backend.Upload(targets, target);
    const Tensor logits = model_.Logits(hidden);
    std::vector<float> values(rows);
    Tensor result = backend.Allocate(DType::kF32, {rows});
    const auto sum = [&] {
      backend.Download(result, values.data());
      double total = 0;
      for (const float value : values) total += value;
      return total;
    };
    backend.NegativeLogLikelihood(logits, target, result);
    sums.nll += sum();
    sums.tokens += rows;
    if (reference_ != nullptr) {
      const Tensor reference_logits = reference_->Logits(reference_hidden);
      backend.NegativeLogLikelihood(reference_logits, target, result);
      sums.reference_nll += sum();
      Tensor agree = backend.Allocate(DType::kF32, {rows});
      backend.KlDivergence(reference_logits, logits, result, agree);
      backend.Download(result, values.data());
      kl_.insert(kl_.end(), values.begin(), values.end());
      backend.Download(agree, values.data());
      for (const float value : values) sums.agree += value;
    }
    return backend.Synchronize();
  }

  Model& model_;
  Model* reference_;
  std::vector<float> kl_;  // of every predicted token
};

Status CheckSameTokens(const ModelFiles& model, const ModelFiles& reference) {
  if (model.spec.vocabulary == reference.spec.vocabulary) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--reference ", reference.folder, " has a vocabulary of ", reference.spec.vocabulary, ", ",
      model.folder, " one of ", model.spec.vocabulary, "; compare models of one family"));
}

}  // namespace

StatusOr<EvaluateReport> Evaluate(const EvaluateOptions& options, Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  if (options.texts.empty()) return absl::InvalidArgumentError("give at least one --text");
  if (options.seq_len < 2) return absl::InvalidArgumentError("--seq-len must be at least 2");
  CVXQ_ASSIGN_OR_RETURN(const ModelFiles files, OpenModel(options.model, options.threads));
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<const Tokenizer> tokenizer, files.LoadTokenizer());
  CVXQ_ASSIGN_OR_RETURN(
      const std::unique_ptr<Backend> backend,
      MakeBackend(options.backend, options.threads > 0 ? options.threads : AvailableProcessors()));
  const ModelOptions memory{.compute = options.bf16 ? DType::kBF16 : DType::kF32,
                            .resident_bytes = kResidentBytes};
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                        Model::Load(files.spec, *files.weights, memory, *backend));
  ModelFiles reference_files;
  std::unique_ptr<Model> reference;
  if (options.reference) {
    CVXQ_ASSIGN_OR_RETURN(reference_files, OpenModel(*options.reference, options.threads));
    CVXQ_RETURN_IF_ERROR(CheckSameTokens(files, reference_files));
    CVXQ_ASSIGN_OR_RETURN(
        reference, Model::Load(reference_files.spec, *reference_files.weights, memory, *backend));
  }
  int64_t seq_len = options.seq_len, limit = files.spec.max_positions;
  if (reference != nullptr) limit = std::min(limit, reference_files.spec.max_positions);
  if (seq_len > limit) {
    seq_len = limit;
    progress.Note(absl::StrFormat("sequences are %d tokens: the model's limit", seq_len));
  }

  EvaluateReport report{.model = options.model, .reference = options.reference};
  Evaluator evaluator(*model, reference.get());
  Sums all;
  for (const std::string& path : options.texts) {
    CVXQ_ASSIGN_OR_RETURN(
        const EvaluationSet set,
        EvaluationBlocks(*tokenizer, files.spec.vocabulary, path, seq_len, options.max_sequences));
    auto phase = progress.Start(path, set.blocks, "blocks");
    Sums sums;
    for (int64_t first = 0; first < set.blocks; first += WaveSequences(seq_len)) {
      CVXQ_RETURN_IF_ERROR(CheckInterrupted());
      const int64_t count = std::min(WaveSequences(seq_len), set.blocks - first);
      CVXQ_RETURN_IF_ERROR(evaluator.RunWave(set, first, count, sums));
      phase.Advance(count);
    }
    TextResult& text = report.texts.emplace_back();
    text.path = path;
    text.blocks = set.blocks;
    text.tokens = sums.tokens;
    text.nll = sums.nll / sums.tokens;
    text.perplexity = std::exp(text.nll);
    phase.Done(absl::StrFormat("perplexity %.4f", text.perplexity));
    all.nll += sums.nll;
    all.reference_nll += sums.reference_nll;
    all.agree += sums.agree;
    all.tokens += sums.tokens;
  }
  const double tokens = static_cast<double>(all.tokens);
  report.perplexity = std::exp(all.nll / tokens);
  if (reference != nullptr) {
    report.reference_perplexity = std::exp(all.reference_nll / tokens);
    report.top1_agreement = all.agree / tokens;
    std::vector<float>& kl = evaluator.kl();
    double sum = 0;
    for (const float value : kl) sum += value;
    report.kl_mean = sum / tokens;
    const auto p99 = kl.begin() + static_cast<int64_t>(0.99 * (tokens - 1));
    std::nth_element(kl.begin(), p99, kl.end());
    report.kl_p99 = *p99;
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report.tokens_per_second = tokens / report.seconds;
  return report;
}

StatusOr<double> MeanDivergence(Model& model, Model& reference, std::span<const int32_t> ids,
                                int64_t seq_len, Progress::Phase& progress) {
  const EvaluationSet set{.blocks = static_cast<int64_t>(ids.size()) / seq_len,
                          .seq_len = seq_len,
                          .ids = {ids.begin(), ids.end()}};
  Evaluator evaluator(model, &reference);
  Sums sums;
  for (int64_t first = 0; first < set.blocks; first += WaveSequences(seq_len)) {
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    const int64_t count = std::min(WaveSequences(seq_len), set.blocks - first);
    CVXQ_RETURN_IF_ERROR(evaluator.RunWave(set, first, count, sums));
    progress.Advance(count);
  }
  double sum = 0;
  for (const float value : evaluator.kl()) sum += value;
  return sums.tokens > 0 ? sum / static_cast<double>(sums.tokens) : 0.0;
}

nlohmann::ordered_json EvaluateReport::ToJson() const {
  nlohmann::ordered_json json;
  json["model"] = model;
  json["reference"] = reference ? nlohmann::ordered_json(*reference) : nullptr;
  json["texts"] = nlohmann::ordered_json::array();
  for (const TextResult& text : texts) {
    json["texts"].push_back({{"path", text.path},
                             {"blocks", text.blocks},
                             {"tokens", text.tokens},
                             {"perplexity", text.perplexity},
                             {"nll", text.nll}});
  }
  json["perplexity"] = perplexity;
  if (reference) {
    json["reference_perplexity"] = reference_perplexity;
    json["kl_mean"] = kl_mean;
    json["kl_p99"] = kl_p99;
    json["top1_agreement"] = top1_agreement;
  }
  json["seconds"] = seconds;
  json["tokens_per_second"] = tokens_per_second;
  return json;
}

}  // namespace cvxq
