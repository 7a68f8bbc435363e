// Carries out the orders of EntropyRate on some blocks of a model: the part of the codec `entropy`
// that reads weights and factors and makes codes.
#ifndef CVXQ_PIPELINE_ENTROPY_LINEARS_H_
#define CVXQ_PIPELINE_ENTROPY_LINEARS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "pipeline/block_coder.h"
#include "pipeline/entropy_rate.h"
#include "pipeline/model_coder.h"
#include "quant/scaled_codes.h"
#include "storage/archive.h"

namespace cvxq {

// The order of work of rows [first, first + rows), W's row in each place: the trellis runs from the
// first row down, and so does the work.
std::vector<int32_t> EntropyRowOrder(int64_t first, int64_t rows);

// Makes plans ready to be coded: no codes, and room for the biases that will be corrected.
void StartEntropyPlans(const ArchSpec& spec, std::vector<LinearPlan>& plans);

class EntropyLinears : public BlockCoder {
 public:
  // `context` has the statistics of these blocks, and its plans are of these blocks alone, in
  // order.
  EntropyLinears(const StageContext& context, Feedback feedback);

  // All but biases.
  StatusOr<EntropyAnswer> CarryOut(const EntropyOrder& order, Progress::Phase& phase) override;
  Status Save(int64_t block, ArchiveWriter& writer) const override;
  Status Load(int64_t block, ArchiveReader& reader, EntropyAnswer& answer) override;
  // Feedback has left errors along the mean input to the biases, where there are any: fills
  // plan.bias.
  Status CorrectBiases(const EntropyTables& tables) override;

 private:
  struct Linear;
  struct Classes {
    std::vector<int8_t> row_class, column_class;
  };
  struct Outcome {
    SymbolCounts counts;
    double class_shift = 0;
  };

  const InputMoments& InputsOf(const LinearPlan& plan) const;
  std::pair<size_t, size_t> PlansOf(int64_t block) const;
  StatusOr<std::unique_ptr<Linear>> Load(const LinearPlan& plan, bool factors);
  StatusOr<SpreadHistogram> Foresee(int64_t block, Progress::Phase& phase);
  Status CodeBlock(const EntropyOrder& order, const EntropyOrder::Block& block,
                   EntropyAnswer& answer, Progress::Phase& phase);
  void AppendAnswer(int64_t block, EntropyAnswer& answer) const;
  StatusOr<Outcome> CodeLinear(const EntropyOrder& order, double log2_delta, size_t index);
  template <typename Body>
  Status Each(size_t begin, size_t end, const Body& body);

  const StageContext& context_;
  const Feedback feedback_;
  TrellisPrices prices_;
  // As it was coded last: of each plan, and of each block the counts.
  std::vector<Classes> known_;
  std::vector<double> class_shift_;
  std::map<int64_t, SymbolCounts> counts_;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_ENTROPY_LINEARS_H_
