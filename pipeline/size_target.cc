#include <cmath>

#include "absl/strings/str_format.h"
#include "base/size.h"
#include "pipeline/model_coder.h"

namespace cvxq {

SizeTarget::SizeTarget(const CodingContext& context) : context_(context) {
  bytes_ = context.options.size ? *context.options.size
                                : static_cast<int64_t>(std::floor(*context.options.bits *
                                                                  context.quantized_weights() / 8));
}

int64_t SizeTarget::Counted() const {
  return context_.options.size ? context_.writer.OutputBytes() : context_.writer.PackedBytes();
}

bool SizeTarget::Met() const {
  const int64_t counted = Counted();
  return counted <= bytes_ && counted >= bytes_ * (1 - kTolerance);
}

void SizeTarget::Tell(double log2_lambda) const {
  context_.progress.Figure("size_ratio",
                           static_cast<double>(Counted()) / static_cast<double>(bytes_));
  context_.progress.Figure("log2_lambda", log2_lambda);
}

Status SizeTarget::TooSmall(int64_t least, const std::string& advice) const {
  if (context_.options.size) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--size %s is too small for this model: embeddings, norms and side "
                        "information alone take %s; ask for more%s",
                        FormatBytes(bytes_), FormatBytes(least), advice));
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "--bits %g is too low for this model: side information alone takes about %.2f bits a weight; "
      "ask for more%s",
      *context_.options.bits, least * 8 / context_.quantized_weights(), advice));
}

}  // namespace cvxq
