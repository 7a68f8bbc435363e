// Codes blocks linear by linear, for codecs that remember nothing from one time to the next.
#ifndef CVXQ_PIPELINE_LINEAR_BLOCKS_H_
#define CVXQ_PIPELINE_LINEAR_BLOCKS_H_

#include <functional>
#include <span>
#include <utility>

#include "pipeline/block_coder.h"
#include "pipeline/entropy_rate.h"
#include "pipeline/model_coder.h"

namespace cvxq {

class LinearBlocks : public BlockCoder {
 public:
  // Fills what the plans of one block have "from coding", biases too; advances the phase by one for
  // each.
  using CodeLinears =
      std::function<Status(const StageContext&, std::span<LinearPlan>, Progress::Phase&)>;

  // `context` outlives it.
  LinearBlocks(const StageContext& context, CodeLinears code)
      : context_(context), code_(std::move(code)) {}

  // Of the order only which blocks it is for.
  StatusOr<EntropyAnswer> CarryOut(const EntropyOrder& order, Progress::Phase& phase) override;
  Status Save(int64_t block, ArchiveWriter& writer) const override;
  Status Load(int64_t block, ArchiveReader& reader, EntropyAnswer& answer) override;
  Status CorrectBiases(const EntropyTables&) override { return absl::OkStatus(); }

 private:
  std::span<LinearPlan> PlansOf(int64_t block) const;
  void AppendAnswer(int64_t block, EntropyAnswer& answer) const;

  const StageContext& context_;
  const CodeLinears code_;
};

// Has all blocks of a model coded by its stages, as the next step of the job, and gives the plans
// their number of bytes.
Status CodeAllBlocks(CodingContext& context, Progress::Phase& phase);

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_LINEAR_BLOCKS_H_
