#include "pipeline/table_moments.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/interrupt.h"
#include "base/random.h"

namespace cvxq {
namespace {

constexpr int64_t kHeadTokens = 256;  // rows of logits at a time
constexpr uint64_t kTableStream = 0x7461626c;

class TableCollector {
 public:
  TableCollector(Model& model, const CalibrationSet& calibration, const GradientOptions& options)
      : model_(model),
        backend_(model.backend()),
        spec_(model.spec()),
        calibration_(calibration),
        options_(options),
        count_(spec_.vocabulary),
        spread_(spec_.vocabulary) {}

  StatusOr<TablesMoments> Run(Progress::Phase& progress) {
    if (spec_.embedding_dim != spec_.hidden) {
      return absl::UnimplementedError("a token table that is not as wide as the model's blocks");
    }
    embedding_ = Zeros({spec_.hidden, spec_.hidden});
    head_ = Zeros({spec_.hidden, spec_.hidden});
    const int64_t per_wave = WaveSequences(calibration_.seq_len);
    for (int64_t first = 0; first < options_.samples; first += per_wave) {
      CVXQ_RETURN_IF_ERROR(CheckInterrupted());
      const int64_t count = std::min(per_wave, options_.samples - first);
      CVXQ_RETURN_IF_ERROR(RunWave(first, count));
      progress.Advance(count);
    }
    return Finish();
  }

 private:
  Tensor Zeros(Shape shape) {
    Tensor tensor = backend_.Allocate(DType::kF32, std::move(shape));
    backend_.Fill(tensor, 0);
    return tensor;
  }

  Status RunWave(int64_t sample, int64_t count) {
    const Wave wave{.B = count, .T = calibration_.seq_len};
    const int32_t* ids = &calibration_.ids[sample * wave.T];
    for (int64_t i = 0; i < wave.rows(); ++i) count_[ids[i]] += 1;
    Tensor id_tensor = backend_.Allocate(DType::kI32, {wave.rows()});
    backend_.Upload(ids, id_tensor);
    CVXQ_ASSIGN_OR_RETURN(Tensor x, model_.Embed(wave, id_tensor));
    std::vector<Tensor> inputs;
    for (int64_t block = 0; block < spec_.layers; ++block) {
      Tensor& input = inputs.emplace_back(backend_.Allocate(DType::kF32, x.shape));
      backend_.Convert(x, input);
      CVXQ_RETURN_IF_ERROR(model_.ForwardBlock(block, wave, x, nullptr));
    }
    const Tensor hidden = model_.FinalHidden(x);
    backend_.AddSecondMoment(hidden, head_);
    Tensor gradient = backend_.Allocate(DType::kF32, hidden.shape);
    for (int64_t first = 0; first < wave.rows(); first += kHeadTokens) {
      CVXQ_RETURN_IF_ERROR(Head(hidden, sample * wave.T, first,
                                std::min(kHeadTokens, wave.rows() - first), gradient));
    }
    Tensor g = model_.FinalHiddenBackward(x, gradient);
    for (int64_t block = spec_.layers - 1; block >= 0; --block) {
      CVXQ_RETURN_IF_ERROR(model_.BackwardBlock(block, wave, inputs[block], g, nullptr));
      inputs.pop_back();
    }
    backend_.AddSecondMoment(g, embedding_);
    return backend_.Synchronize();
  }

  // Rows [first, first + rows) of the wave: their gradient at the hidden states, and p (1 - p).
  Status Head(const Tensor& hidden, int64_t counter, int64_t first, int64_t rows,
              Tensor& gradient) {
    const Tensor logits = model_.Logits(hidden.Rows(first, first + rows));
    Tensor g = backend_.Allocate(DType::kF32, logits.shape);
    backend_.SampleLabelGradient(logits, DeriveKey(options_.seed, kTableStream), counter + first,
                                 g);
    buffer_.resize(g.shape.elements());
    backend_.Download(g, buffer_.data());
    std::vector<float> capped(spec_.logit_softcap > 0 ? buffer_.size() : 0);
    if (!capped.empty()) backend_.Download(logits, capped.data());
    CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
    const int64_t V = spec_.vocabulary;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t v = 0; v < V; ++v) {
        // |g| is p, at the label 1 - p: either way |g| (1 - |g|) is p (1 - p).
        const float magnitude = std::abs(buffer_[i * V + v]);
        double slope = 1;  // of a logit's cap
        if (!capped.empty()) {
          const double share = capped[i * V + v] / spec_.logit_softcap;
          slope = 1 - share * share;
        }
        spread_[v] += magnitude * (1 - magnitude) * slope * slope;
      }
    }
    backend_.Convert(model_.LogitsBackward(logits, g), gradient.Rows(first, first + rows));
    return absl::OkStatus();
  }

  StatusOr<std::vector<float>> Download(const Tensor& moment, double scale) {
    std::vector<float> values(moment.shape.elements());
    backend_.Download(moment, values.data());
    CVXQ_RETURN_IF_ERROR(backend_.Synchronize());
    for (float& value : values) {
      value = static_cast<float>(value * scale);
      if (!std::isfinite(value)) {
        return absl::DataLossError(
            "the gradient at the embedding or the final hidden states are not finite; check the "
            "model's weights and the calibration text, or use --compute fp32");
      }
    }
    return values;
  }

  StatusOr<TablesMoments> Finish() {
    const int64_t V = spec_.vocabulary, D = spec_.hidden;
    const double tokens = static_cast<double>(options_.samples * calibration_.seq_len);
    const double scale = spec_.embedding_scale * spec_.embedding_scale;
    const double logits = spec_.logit_scale * spec_.logit_scale;
    TablesMoments result;
    TableMoments &embedding = result.embedding, &head = result.head;
    CVXQ_ASSIGN_OR_RETURN(embedding.column, Download(embedding_, scale / tokens));
    CVXQ_ASSIGN_OR_RETURN(head.column, Download(head_, logits / tokens));
    embedding.row.resize(V);
    head.row.resize(V);
    double all = 0;
    for (int64_t v = 0; v < V; ++v) {
      embedding.row[v] = static_cast<float>(std::max(count_[v], 0.5) / tokens);
      head.row[v] = static_cast<float>(std::max(spread_[v] / tokens, 1e-12));
      all += head.row[v];
    }
    if (!spec_.tied_head) return result;
    // Both at once. A token is predicted about as often as it comes up, so the columns of the two
    // add up, and the rows by what each has of the whole.
    double embedding_trace = 0, head_trace = 0;
    for (int64_t i = 0; i < D; ++i) {
      embedding_trace += embedding.column[i * D + i];
      head_trace += head.column[i * D + i];
    }
    const double whole = embedding_trace + all * head_trace;
    for (int64_t i = 0; i < D * D; ++i) {
      embedding.column[i] += static_cast<float>(all * head.column[i]);
    }
    for (int64_t v = 0; whole > 0 && v < V; ++v) {
      embedding.row[v] = static_cast<float>(
          (embedding.row[v] * embedding_trace + head.row[v] * head_trace) / whole);
    }
    head = {};
    return result;
  }

  Model& model_;
  Backend& backend_;
  const ArchSpec& spec_;
  const CalibrationSet& calibration_;
  const GradientOptions& options_;
  Tensor embedding_, head_;             // sums of second moments [D, D]
  std::vector<double> count_, spread_;  // [V]: how often a token came up; sum of p (1 - p)
  std::vector<float> buffer_;
};

}  // namespace

StatusOr<TablesMoments> CollectTableMoments(Model& model, const CalibrationSet& calibration,
                                            const GradientOptions& options,
                                            Progress::Phase& progress) {
  return TableCollector(model, calibration, options).Run(progress);
}

}  // namespace cvxq
