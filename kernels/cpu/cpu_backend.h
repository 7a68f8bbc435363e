// The fast CPU backend. Products are tiles for oneDNN (product.h), the rest is the project's own
// vector code (vector_ops.h); both run on a ThreadPool over pieces cut by the shapes.
#ifndef CVXQ_KERNELS_CPU_CPU_BACKEND_H_
#define CVXQ_KERNELS_CPU_CPU_BACKEND_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/thread_pool.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/vector_ops.h"
#include "kernels/host_memory.h"

namespace cvxq {

struct CpuScaledWeight;

// What the code may use of the machine; tests choose less than there is.
struct CpuFeatures {
  VectorLevel level = BestVectorLevel();
  bool native_bf16 = HasNativeBf16();
};

class CpuBackend : public HostBackend {
 public:
  CpuBackend(int threads, CpuFeatures features);

  std::string name() const override;
  std::string numerics_class() const override;
  bool fast_bf16() const override;

  void Convert(const Tensor& src, Tensor dst) override;

  void Linear(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor y) override;
  void LinearBackward(const Tensor& gy, const Tensor& w, Tensor gx, bool accumulate) override;
  std::shared_ptr<PackedWeight> ImportPacked(const PackedMatrix& matrix, DType compute) override;
  std::shared_ptr<PackedWeight> ImportPacked(std::shared_ptr<const ScaledMatrix> matrix,
                                             DType compute) override;
  void PackedLinear(const Tensor& x, const PackedWeight& w, const Tensor& bias, Tensor y) override;
  void Unpack(const PackedWeight& packed, Tensor w) override;

  void AddSecondMoment(const Tensor& x, Tensor h) override;
  void AddBlockSecondMoment(const Tensor& x, Tensor h) override;
  void AddColumnSums(const Tensor& x, Tensor sums) override;
  void AddRowSquares(const Tensor& x, Tensor sums) override;
  void AddSquaredGradient(const Tensor& gy, const Tensor& x, const Tensor& row_group,
                          const Tensor& column_group, Tensor sums) override;

  void Embed(const Tensor& table, const Tensor& ids, float scale, Tensor y) override;
  void AddPositions(const Tensor& table, int64_t position, int64_t T, Tensor y) override;
  void Norm(NormKind kind, float epsilon, const Tensor& x, const Tensor& w, const Tensor& b,
            Tensor y) override;
  void NormBackward(NormKind kind, float epsilon, const Tensor& x, const Tensor& w,
                    const Tensor& gy, Tensor gx, bool accumulate) override;
  void AddNormGradient(NormKind kind, float epsilon, const Tensor& x, const Tensor& gy,
                       Tensor gw) override;
  void Rope(RopeKind kind, int64_t head_dim, const Tensor& cosine, const Tensor& sine,
            int64_t position, int64_t T, bool inverse, Tensor x) override;
  void Attention(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k,
                 const Tensor& v, bool compute_bf16, Tensor y) override;
  void AttentionBackward(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k,
                         const Tensor& v, const Tensor& gy, bool compute_bf16, Tensor gq, Tensor gk,
                         Tensor gv) override;
  void Activation(ActivationKind kind, const Tensor& gate, const Tensor& up, Tensor y) override;
  void ActivationBackward(ActivationKind kind, const Tensor& gate, const Tensor& up,
                          const Tensor& gy, Tensor ggate, Tensor gup) override;
  void AddScaled(float alpha, const Tensor& x, Tensor y) override;
  void ScaleRows(const Tensor& scale, Tensor x) override;
  void ScaleAndCap(float scale, float cap, Tensor x) override;
  void ScaleAndCapBackward(float scale, float cap, const Tensor& y, Tensor g) override;

  void SampleLabelGradient(const Tensor& logits, uint64_t key, uint64_t first_counter,
                           Tensor g) override;
  void NegativeLogLikelihood(const Tensor& logits, const Tensor& targets, Tensor nll) override;
  void KlDivergence(const Tensor& reference, const Tensor& logits, Tensor kl,
                    Tensor agree) override;
  void KlGradient(const Tensor& reference, const Tensor& logits, Tensor g) override;

 private:
  // Calls body(begin, end) for pieces of [0, count), in parallel; pieces hold about
  // kPieceElements elements, with `width` elements for each of `count`.
  void ParallelPieces(int64_t count, int64_t width,
                      const std::function<void(int64_t, int64_t)>& body);
  // The same for elements [begin, end) of y, which is float or BF16: body writes floats to `out`,
  // which are converted where y asks for it.
  void ParallelStore(const Tensor& y,
                     const std::function<void(int64_t begin, int64_t end, float* out)>& body);
  // y[:, begin..end) = x w^T + bias for the rows [begin, end) of a matrix, which `w` points to, of
  // the dtype of x [n, N]; y [n, M] and bias [M] (or empty) are whole.
  void MultiplyRows(const Tensor& x, const std::byte* w, int64_t begin, int64_t end,
                    const Tensor& bias, const Tensor& y);
  // As PackedLinear.
  void ScaledLinear(const Tensor& x, const CpuScaledWeight& w, const Tensor& bias, const Tensor& y);
  // h[i.., j..] += x^T x for one square of columns [begin, end) as tasks on upper tiles.
  void AddSquareSecondMoment(const Tensor& x, int64_t begin, int64_t end, float* h, int64_t stride);
  // x itself where it has the dtype, else a converted copy.
  Tensor As(DType dtype, const Tensor& x);

  const CpuFeatures features_;
  const VectorOps& ops_;
  const ProductOptions products_;
  ThreadPool pool_;
};

}  // namespace cvxq

#endif  // CVXQ_KERNELS_CPU_CPU_BACKEND_H_
