// The optimiser Adam (Kingma, Ba, arXiv 1412.6980, algorithm 1) on one flat vector of parameters.
#ifndef CVXQ_PIPELINE_ADAM_H_
#define CVXQ_PIPELINE_ADAM_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "storage/archive.h"

namespace cvxq {

class Adam {
 public:
  explicit Adam(size_t parameters) : mean_(parameters), square_(parameters) {}

  // Moves each value against its gradient, by about `rate`. Sizes are those of the constructor.
  void Step(double rate, std::span<const float> gradient, std::span<float> values);

  // How far it has come, for one of as many parameters. kDataLoss where it is not of so many.
  Status Save(ArchiveWriter& writer) const;
  Status Load(ArchiveReader& reader);

 private:
  std::vector<float> mean_, square_;  // running means of the gradient and of its square
  int64_t steps_ = 0;
};

}  // namespace cvxq

#endif  // CVXQ_PIPELINE_ADAM_H_
