// How the codec `entropy` finds the one delta that meets the size asked for: what to code next,
// from what has been coded so far.
//
//   foresee  the bits at any delta, from the spread of the weights
//   survey   some blocks coded at the delta this gives, twice: symbol statistics, and how the bits
//            compare with what was foreseen
//   code     all blocks; dual ascent on log2 delta, with the slope that the passes have shown
//   trim     some blocks once more at a slightly different delta, until the bytes meet the target:
//            first as many at once as should do, then few
//
// It decides alone and codes nothing: whoever runs it has the orders carried out
// (entropy_linears.h), by one process or by many, and answers with the sum of what came of them.
// All that orders depend on are integers and sums in the order of the model, so that they are the
// same however the work was shared out.
//
//   EntropyRate rate(context);
//   CVXQ_ASSIGN_OR_RETURN(EntropyOrder order, rate.Start());
//   while (order.kind != EntropyOrder::Kind::kDone) {
//     ... carry out ...
//     CVXQ_ASSIGN_OR_RETURN(order, rate.Next(answer));
//   }
#ifndef CVXQ_PIPELINE_ENTROPY_RATE_H_
#define CVXQ_PIPELINE_ENTROPY_RATE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/model_coder.h"
#include "quant/entropy.h"
#include "quant/entropy_tables.h"

namespace cvxq {

// One thing to be done to some blocks of the model.
struct EntropyOrder {
  enum class Kind : uint8_t { kForesee, kCode, kDone };
  struct Block {
    int64_t block = 0;
    double log2_delta = 0;
  };

  Kind kind = Kind::kDone;
  std::string phase;  // for people; orders in a row with the same words are one phase
  std::vector<Block> blocks;
  // Of kCode. Without tables nothing is serialised: only counted.
  std::shared_ptr<const EntropyTables> tables;
  int8_t class_shift = 0;  // from foreseen classes to those that feedback makes
};

// What came of an order, over all its blocks.
struct EntropyAnswer {
  struct Linear {
    int64_t plan = 0;        // its index
    int64_t bytes = 0;       // serialised
    double class_shift = 0;  // of kCode without tables: what feedback did to the mean class
  };

  std::vector<Linear> linears;              // of kCode, in the order of plans
  SymbolCounts counts;                      // of kCode
  std::vector<SpreadHistogram> histograms;  // of kForesee, for each block of the order

  // Puts another part's answer behind this one, whose blocks come later in the model.
  void Append(EntropyAnswer other);
};

class EntropyRate {
 public:
  // Refers to the context's options, spec, plans and writer alone. Plans are started
  // (StartEntropyPlans); their packed_bytes follow the answers.
  explicit EntropyRate(CodingContext& context);

  StatusOr<EntropyOrder> Start();
  // kInvalidArgument where the size asked for cannot be met.
  StatusOr<EntropyOrder> Next(const EntropyAnswer& answer);

  double log2_delta() const { return log2_delta_; }
  int64_t passes() const { return passes_; }  // over all blocks, and trims
  // What the codes that were ordered last were made with.
  const std::shared_ptr<const EntropyTables>& tables() const { return tables_; }

 private:
  enum class Step : uint8_t { kForesee, kSurveyCounts, kSurveyBits, kCode, kTrim };

  StatusOr<EntropyOrder> Foreseen(const EntropyAnswer& answer);
  StatusOr<EntropyOrder> SurveyCounted(const EntropyAnswer& answer);
  StatusOr<EntropyOrder> Surveyed(const EntropyAnswer& answer);
  StatusOr<EntropyOrder> Coded(const EntropyAnswer& answer);
  StatusOr<EntropyOrder> Trimmed();
  StatusOr<EntropyOrder> Decide();
  EntropyOrder Survey(Step step);
  EntropyOrder CodeAll(double log2_delta);
  EntropyOrder TrimNext();
  EntropyOrder Done();
  void Learn(const SymbolCounts& counts);
  void LearnSlope();
  double Excess() const;  // bits above what is aimed at

  CodingContext& context_;
  const SizeTarget target_;
  const int64_t blocks_;
  Step step_ = Step::kForesee;
  SpreadHistogram foreseen_, surveyed_;  // of all blocks; of those surveyed
  double budget_ = 0;                    // bits of all matrices
  bool ample_ = false;                   // the budget is more than is of use
  double correction_ = 0.85;  // of the bits foreseen: what the trellis and real weights save
  double log2_delta_ = 0;
  double slope_ = 0;  // of the bits, by log2 delta
  int8_t class_shift_ = 0;
  std::shared_ptr<const EntropyTables> tables_;
  SymbolCounts counts_;  // of the last pass over all blocks
  int64_t passes_ = 0;
  double coded_step_ = 0,
         coded_excess_ = 0;                  // what the order under way changes, and where it began
  std::vector<double> block_delta_;          // log2 delta of each block as it is coded
  int64_t next_trim_ = 0, trim_stride_ = 1;  // the block after, and from it to the next
  int64_t trimmed_ = 0;                      // blocks of this trim
  double trim_change_ = 0;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_ENTROPY_RATE_H_
