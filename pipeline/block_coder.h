// The part of a codec that makes codes: of some blocks of a model whose statistics are there, as it
// is told to.
#ifndef CVXQ_PIPELINE_BLOCK_CODER_H_
#define CVXQ_PIPELINE_BLOCK_CODER_H_

#include <cstdint>

#include "base/progress.h"
#include "base/status.h"
#include "storage/archive.h"

namespace cvxq {

struct EntropyAnswer;  // entropy_rate.h
struct EntropyOrder;
class EntropyTables;  // quant/entropy_tables.h

// Used from one thread at a time.
class BlockCoder {
 public:
  virtual ~BlockCoder() = default;

  // The order's blocks are among those that this has. Fills what their plans have "from coding",
  // and tells of it. The same for any number of threads. Errors: weights, disk, interruption.
  virtual StatusOr<EntropyAnswer> CarryOut(const EntropyOrder& order, Progress::Phase& phase) = 0;

  // The codes of a block as the last order has left them, with its part of that order's answer, for
  // whoever goes on after a crash.
  virtual Status Save(int64_t block, ArchiveWriter& writer) const = 0;
  // Puts them back and appends that part; kDataLoss, and nothing has changed, where they are
  // damaged.
  virtual Status Load(int64_t block, ArchiveReader& reader, EntropyAnswer& answer) = 0;

  // After the last order, with its tables.
  virtual Status CorrectBiases(const EntropyTables& tables) = 0;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_BLOCK_CODER_H_
