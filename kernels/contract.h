// The shapes and dtypes that each operation of backend.h asks of its operands. A backend calls the
// check of an operation first; a mismatch is our own bug and aborts with one line.
#ifndef CVXQ_KERNELS_CONTRACT_H_
#define CVXQ_KERNELS_CONTRACT_H_

#include "kernels/backend.h"

namespace cvxq {

// Prints `what` and aborts unless `condition` holds.
void Require(bool condition, const char* what);

namespace contract {

void Convert(const Tensor& src, const Tensor& dst);
void Linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y);
void LinearBackward(const Tensor& gy, const Tensor& w, const Tensor& gx);
void PackedLinear(const Tensor& x, const PackedWeight& w, const Tensor& bias, const Tensor& y);
void Unpack(const PackedWeight& packed, const Tensor& w);
void AddSecondMoment(const Tensor& x, const Tensor& h);
void AddBlockSecondMoment(const Tensor& x, const Tensor& h);
void AddColumnSums(const Tensor& x, const Tensor& sums);
void AddRowSquares(const Tensor& x, const Tensor& sums);
void AddSquaredGradient(const Tensor& gy, const Tensor& x, const Tensor& row_group,
                        const Tensor& column_group, const Tensor& sums);
void Embed(const Tensor& table, const Tensor& ids, const Tensor& y);
void AddPositions(const Tensor& table, int64_t position, int64_t T, const Tensor& y);
void Norm(const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& y);
void NormBackward(const Tensor& x, const Tensor& w, const Tensor& gy, const Tensor& gx);
void AddNormGradient(const Tensor& x, const Tensor& gy, const Tensor& gw);
void Rope(int64_t head_dim, const Tensor& cosine, const Tensor& sine, int64_t position, int64_t T,
          const Tensor& x);
void Attention(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k,
               const Tensor& v, const Tensor& y);
void AttentionBackward(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& gy, const Tensor& gq, const Tensor& gk,
                       const Tensor& gv);
void Activation(const Tensor& gate, const Tensor& up, const Tensor& y);
void ActivationBackward(const Tensor& gate, const Tensor& up, const Tensor& gy, const Tensor& ggate,
                        const Tensor& gup);
void AddScaled(const Tensor& x, const Tensor& y);
void ScaleRows(const Tensor& scale, const Tensor& x);
void ScaleAndCap(const Tensor& x);
void ScaleAndCapBackward(const Tensor& y, const Tensor& g);
void SampleLabelGradient(const Tensor& logits, const Tensor& g);
void NegativeLogLikelihood(const Tensor& logits, const Tensor& targets, const Tensor& nll);
void KlDivergence(const Tensor& reference, const Tensor& logits, const Tensor& kl,
                  const Tensor& agree);
void KlGradient(const Tensor& reference, const Tensor& logits, const Tensor& g);

}  // namespace contract
}  // namespace cvxq

#endif  // CVXQ_KERNELS_CONTRACT_H_
