#include "pipeline/generate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "base/interrupt.h"
#include "base/random.h"
#include "base/thread_pool.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "pipeline/model_files.h"

namespace cvxq {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A model with a cache: feed it ids, get the logits of the last.
class CachedModel {
 public:
  CachedModel(Model& model, int64_t capacity) : model_(model), cache_(model.spec().layers) {
    const int64_t width = int64_t{model.spec().kv_heads} * model.spec().head_dim;
    for (KeyValueCache& cache : cache_) {
      cache.keys = model.backend().Allocate(DType::kF32, {capacity, width});
      cache.values = model.backend().Allocate(DType::kF32, {capacity, width});
    }
  }

  StatusOr<std::vector<float>> Feed(std::span<const int32_t> ids) {
    Backend& backend = model_.backend();
    const Wave wave{.B = 1, .T = static_cast<int64_t>(ids.size()), .position = position_};
    Tensor id_tensor = backend.Allocate(DType::kI32, {wave.rows()});
    backend.Upload(ids.data(), id_tensor);
    CVXQ_ASSIGN_OR_RETURN(Tensor x, model_.Embed(wave, id_tensor));
    for (int64_t block = 0; block < model_.spec().layers; ++block) {
      CVXQ_RETURN_IF_ERROR(model_.ForwardBlock(block, wave, x, nullptr, &cache_[block]));
    }
    position_ += wave.T;
    const Tensor logits = model_.Logits(model_.FinalHidden(x.Rows(wave.T - 1, wave.T)));
    std::vector<float> values(logits.shape.elements());
    backend.Download(logits, values.data());
    CVXQ_RETURN_IF_ERROR(backend.Synchronize());
    return values;
  }

 private:
  Model& model_;
  std::vector<KeyValueCache> cache_;
  int64_t position_ = 0;
};

Status CheckOptions(const GenerateOptions& options) {
  if (options.tokens < 1) return absl::InvalidArgumentError("-n must be at least 1");
  if (!(options.temperature >= 0 && std::isfinite(options.temperature))) {
    return absl::InvalidArgumentError("--temperature must be 0 or more");
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return absl::InvalidArgumentError("--top-p must be above 0 and at most 1");
  }
  return absl::OkStatus();
}

}  // namespace

int32_t SampleToken(std::span<const float> logits, double temperature, double top_p, double u) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (temperature == 0) return static_cast<int32_t>(best - logits.begin());
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  std::vector<double> probability(order.size());
  double total = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    probability[i] = std::exp((static_cast<double>(logits[order[i]]) - *best) / temperature);
    total += probability[i];
  }
  double kept = 0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || kept < top_p * total)) kept += probability[count++];
  double left = u * kept;
  for (size_t i = 0; i < count; ++i) {
    left -= probability[i];
    if (left < 0) return order[i];
  }
  return order[count - 1];
}

StatusOr<GenerateReport> Generate(const GenerateOptions& options,
                                  const std::function<void(std::string_view)>& emit) {
  CVXQ_RETURN_IF_ERROR(CheckOptions(options));
  CVXQ_ASSIGN_OR_RETURN(const ModelFiles files, OpenModel(options.model, options.threads));
  CVXQ_ASSIGN_OR_RETURN(const std::unique_ptr<const Tokenizer> tokenizer, files.LoadTokenizer());
  std::vector<int32_t> prompt = tokenizer->Encode(options.prompt, /*add_special_tokens=*/false);
  if (tokenizer->bos()) prompt.insert(prompt.begin(), *tokenizer->bos());
  const int64_t limit = files.spec.max_positions;
  if (prompt.empty()) return absl::InvalidArgumentError("the prompt is empty; give -p some text");
  if (static_cast<int64_t>(prompt.size()) > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", prompt.size(), " tokens, the model takes at most ", limit));
  }
  CVXQ_ASSIGN_OR_RETURN(
      const std::unique_ptr<Backend> backend,
      MakeBackend(options.backend, options.threads > 0 ? options.threads : AvailableProcessors()));
  CVXQ_ASSIGN_OR_RETURN(
      const std::unique_ptr<Model> model,
      Model::Load(files.spec, *files.weights,
                  {.compute = options.bf16 ? DType::kBF16 : DType::kF32}, *backend));
  const int64_t capacity =
      std::min<int64_t>(limit, static_cast<int64_t>(prompt.size()) + options.tokens);
  CachedModel cached(*model, capacity);

  GenerateReport report{.model = options.model};
  report.prompt_tokens = static_cast<int64_t>(prompt.size());
  const Clock::time_point start = Clock::now();
  CVXQ_ASSIGN_OR_RETURN(std::vector<float> logits, cached.Feed(prompt));
  report.seconds_prompt = SecondsSince(start);

  const Clock::time_point first = Clock::now();
  const std::vector<int32_t> eos = tokenizer->eos();
  StreamDecoder decoder(*tokenizer);
  const auto add = [&](const std::string& piece) {
    report.text += piece;
    if (!piece.empty()) emit(piece);
  };
  for (report.stop = "length"; report.tokens < options.tokens;) {
    CVXQ_RETURN_IF_ERROR(CheckInterrupted());
    const int32_t id = SampleToken(logits, options.temperature, options.top_p,
                                   RandomUniform(options.seed, report.tokens));
    if (std::find(eos.begin(), eos.end(), id) != eos.end()) {
      report.stop = "eos";
      break;
    }
    ++report.tokens;
    add(decoder.Add(id));
    if (report.prompt_tokens + report.tokens >= limit) {
      report.stop = "context";
      break;
    }
    if (report.tokens < options.tokens) {
      CVXQ_ASSIGN_OR_RETURN(logits, cached.Feed({&id, 1}));
    }
  }
  add(decoder.Flush());
  report.seconds = SecondsSince(first);
  report.tokens_per_second = report.seconds > 0 ? report.tokens / report.seconds : 0;
  return report;
}

nlohmann::ordered_json GenerateReport::ToJson() const {
  return {{"model", model},
          {"text", text},
          {"prompt_tokens", prompt_tokens},
          {"tokens", tokens},
          {"stop", stop},
          {"seconds_prompt", seconds_prompt},
          {"seconds", seconds},
          {"tokens_per_second", tokens_per_second}};
}

}  // namespace cvxq
