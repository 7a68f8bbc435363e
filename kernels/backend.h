// The arithmetic of the product behind one interface: about twenty coarse operations on tensors
// that live wherever the backend keeps them.
//
//   std::unique_ptr<Backend> backend = MakeCpuBackend(threads);
//   Tensor y = backend->Allocate(DType::kF32, {tokens, rows});
//   backend->Linear(x, w, bias, y);
//   CVXQ_RETURN_IF_ERROR(backend->Synchronize());
//
// Contract of every operation:
//  - It is enqueued: it may return before the work is done. Operations run in the order of the
//    calls. Only Download (and Synchronize) wait. No operation takes or gives a host pointer.
//  - Shapes and dtypes are the caller's duty; a mismatch is our own bug and aborts. What can fail
//    at run time (memory, device) is kept as the first error and returned by Synchronize.
//  - Outputs are allocated by the caller and may not overlap inputs unless it says "in place".
//  - Results do not depend on the number of threads: tiles and orders of summation are fixed by
//    the shapes.
//  - A backend is used from one thread at a time.
//
// Letters: B sequences, T tokens of each, n = B*T token rows (sequence-major), D hidden size,
// V vocabulary; a linear y = W x has M outputs (rows) and N inputs (columns), W is [M, N].
// "float" is F32; "compute" is F32 or BF16, the same for all compute operands of one call. Products
// of BF16 operands are accumulated in F32.
#ifndef CVXQ_KERNELS_BACKEND_H_
#define CVXQ_KERNELS_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "kernels/packed_matrix.h"
#include "kernels/scaled_matrix.h"
#include "tensor/tensor.h"

namespace cvxq {

// Memory of a backend. Freed when the last tensor that shares it goes.
class Buffer {
 public:
  virtual ~Buffer() = default;
};

// A contiguous row-major tensor in backend memory. A cheap value: copies share the buffer.
struct Tensor {
  std::shared_ptr<Buffer> buffer;
  int64_t offset = 0;  // bytes into the buffer
  DType dtype = DType::kF32;
  Shape shape;

  bool empty() const { return buffer == nullptr; }
  int64_t bytes() const { return shape.elements() * ByteSize(dtype); }
  // The same elements under another shape.
  Tensor Reshaped(Shape other) const { return Tensor{buffer, offset, dtype, std::move(other)}; }
  // Rows [begin, end) along the first axis; shares the buffer.
  Tensor Rows(int64_t begin, int64_t end) const;
};

// A packed or scaled matrix in the layout a backend computes from; made by ImportPacked.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  int64_t rows = 0, columns = 0;  // M, N
};

enum class NormKind : uint8_t { kRms, kRmsPlusOne, kLayer };  // kRmsPlusOne scales by 1 + w
enum class RopeKind : uint8_t { kNone, kHalf, kInterleaved }; // pairs (i, i+d/2) or (2i, 2i+1)
enum class ActivationKind : uint8_t { kRelu, kGelu, kGeluTanh, kSilu };  // kGelu is exact (erf)

// Scaled dot-product attention with grouped heads.
struct AttentionSpec {
  int heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 1;
  int64_t window = 0;     // token q sees k iff 0 <= q - k < window; 0 means all k <= q
  float softcap = 0;      // scores become c * tanh(score / c); 0 means none
};

class Backend {
 public:
  virtual ~Backend() = default;

  // "cpu", and what decides its rounding, for instance "cpu-onednn2.6-avx512_bf16".
  virtual std::string name() const = 0;
  virtual std::string numerics_class() const = 0;
  // Whether BF16 products are faster than F32 ones here.
  virtual bool fast_bf16() const = 0;

  // --- memory ---
  // Uninitialised memory.
  virtual Tensor Allocate(DType dtype, Shape shape) = 0;
  // A tensor with the contents of `host`. A backend in host memory may keep using the host's bytes
  // without a copy; so the caller keeps them alive and unchanged while the tensor or copies of it
  // live. (A CUDA backend copies.)
  virtual Tensor Import(const HostTensor& host) = 0;
  virtual void Upload(const void* host, Tensor dst) = 0;      // copies; host is free on return
  virtual void Download(const Tensor& src, void* host) = 0;   // waits
  virtual void Fill(Tensor dst, float value) = 0;             // float
  virtual Status Synchronize() = 0;                           // waits; the first error so far

  // dst = src elementwise, any pair of F32, BF16, F16.
  virtual void Convert(const Tensor& src, Tensor dst) = 0;

  // --- linears ---
  // y[n,M] (float) = x[n,N] w[M,N]^T + bias[M] (float, may be empty). x, w compute.
  virtual void Linear(const Tensor& x, const Tensor& w, const Tensor& bias, Tensor y) = 0;
  // gx[n,N] (float) = or += gy[n,M] w[M,N]. gy, w compute.
  virtual void LinearBackward(const Tensor& gy, const Tensor& w, Tensor gx, bool accumulate) = 0;

  // With BF16 as `compute`, PackedLinear may round factors to BF16 as Linear does.
  virtual std::shared_ptr<PackedWeight> ImportPacked(const PackedMatrix& matrix, DType compute) = 0;
  // The same for a scaled matrix, whose codes a backend in host memory uses where they are.
  virtual std::shared_ptr<PackedWeight> ImportPacked(std::shared_ptr<const ScaledMatrix> matrix,
                                                     DType compute) = 0;
  // As Linear with a packed W; x is float. Few rows (n <= 8) are computed straight from the codes,
  // more rows through Unpack by tiles.
  virtual void PackedLinear(const Tensor& x, const PackedWeight& w, const Tensor& bias,
                            Tensor y) = 0;
  // w[M,N] (compute) = the decoded matrix, exact to the bit (packed_matrix.h, scaled_matrix.h); in
  // BF16 rounded once.
  virtual void Unpack(const PackedWeight& packed, Tensor w) = 0;

  // --- statistics ---
  // h[N,N] (float) += x[n,N]^T x[n,N]: both triangles. x compute.
  virtual void AddSecondMoment(const Tensor& x, Tensor h) = 0;
  // The same in square blocks along the diagonal: h[ceil(N/b), b, b] += ..., the last zero-padded.
  virtual void AddBlockSecondMoment(const Tensor& x, Tensor h) = 0;
  // sums[N] (float) += column sums of x[n,N] (compute or float).
  virtual void AddColumnSums(const Tensor& x, Tensor sums) = 0;
  // sums[n] (float) += the sum of squares of each row of x[n,N] (compute or float).
  virtual void AddRowSquares(const Tensor& x, Tensor sums) = 0;
  // With G = gy[T,M]^T x[T,N], the gradient of one sequence's objective with respect to W:
  //   sums[A,B] (float): sums[row_group[m], column_group[k]] += G[m,k]^2 for all m, k.
  // row_group I32 [M] in [0, A); column_group I32 [N] in [0, B). An empty group tensor is the
  // identity (A = M or B = N); at least one of the two is empty or has one group only.
  // gy, x compute. G itself is never stored whole.
  virtual void AddSquaredGradient(const Tensor& gy, const Tensor& x, const Tensor& row_group,
                                  const Tensor& column_group, Tensor sums) = 0;

  // --- parts of a block ---
  // y[n,D] (float) = scale * table[ids[i], :]; table any float type, ids I32 [n].
  virtual void Embed(const Tensor& table, const Tensor& ids, float scale, Tensor y) = 0;
  // y[B*T,D] += table[position + t, :] for t in [0, T); float y, table any float type. In place.
  virtual void AddPositions(const Tensor& table, int64_t position, int64_t T, Tensor y) = 0;
  // y[n,d] (compute or float) = norm of each row of x[n,d] (float) with weight w and bias b (float,
  // either may be empty). w and b are [d], or [h,d]: row i then uses row i % h.
  virtual void Norm(NormKind kind, float epsilon, const Tensor& x, const Tensor& w,
                    const Tensor& b, Tensor y) = 0;
  // gx[n,d] = or += the gradient through Norm at x, given gy[n,d]. All float.
  virtual void NormBackward(NormKind kind, float epsilon, const Tensor& x, const Tensor& w,
                            const Tensor& gy, Tensor gx, bool accumulate) = 0;
  // gw += the gradient of Norm's weight at x[n,d], given gy[n,d]; gw is [d] or [h,d] as the weight
  // is. All float. (That of the bias [d] is AddColumnSums of gy.)
  virtual void AddNormGradient(NormKind kind, float epsilon, const Tensor& x, const Tensor& gy,
                               Tensor gw) = 0;
  // Rotates x[B*T, heads*head_dim] (float) in place. cosine, sine: float [positions, head_dim/2].
  // Token t of a sequence is at `position + t`. `inverse` rotates back (the backward pass).
  virtual void Rope(RopeKind kind, int64_t head_dim, const Tensor& cosine, const Tensor& sine,
                    int64_t position, int64_t T, bool inverse, Tensor x) = 0;
  // y[B*Tq, heads*head_dim] (compute or float). q [B*Tq, heads*head_dim], k and v
  // [B*Tk, kv_heads*head_dim], float. Query t stands at key position Tk - Tq + t. With compute_bf16
  // the two products may be done in BF16.
  virtual void Attention(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k,
                         const Tensor& v, bool compute_bf16, Tensor y) = 0;
  // Gradients (float) with respect to q, k, v, given gy[B*T, heads*head_dim] (float); Tq = Tk.
  virtual void AttentionBackward(const AttentionSpec& spec, int64_t B, const Tensor& q,
                                 const Tensor& k, const Tensor& v, const Tensor& gy,
                                 bool compute_bf16, Tensor gq, Tensor gk, Tensor gv) = 0;
  // y[n,F] (compute or float) = act(gate) * up, or act(up) where gate is empty. gate, up float.
  virtual void Activation(ActivationKind kind, const Tensor& gate, const Tensor& up, Tensor y) = 0;
  // ggate, gup (float), given gy[n,F] (float). gup may be the same tensor as gy.
  virtual void ActivationBackward(ActivationKind kind, const Tensor& gate, const Tensor& up,
                                  const Tensor& gy, Tensor ggate, Tensor gup) = 0;
  // y += alpha * x, float, in place.
  virtual void AddScaled(float alpha, const Tensor& x, Tensor y) = 0;
  // x[i,:] *= scale[i] (scale float [n]), float, in place.
  virtual void ScaleRows(const Tensor& scale, Tensor x) = 0;
  // x = scale * x, then cap * tanh(x / cap) if cap > 0. Float, in place: the head's last step.
  virtual void ScaleAndCap(float scale, float cap, Tensor x) = 0;
  // g *= d(output)/d(input) of ScaleAndCap, given its output y. Float, in place.
  virtual void ScaleAndCapBackward(float scale, float cap, const Tensor& y, Tensor g) = 0;

  // --- the output distribution; logits float [n,V] ---
  // g[n,V] (compute or float) = onehot(y_i) - softmax(logits_i): the gradient of log p(y_i). y_i
  // is drawn from softmax(logits_i) with the uniform number RandomUniform(key, first_counter + i).
  virtual void SampleLabelGradient(const Tensor& logits, uint64_t key, uint64_t first_counter,
                                   Tensor g) = 0;
  // nll[n] (float) = -log softmax(logits_i)[targets_i], targets I32 [n].
  virtual void NegativeLogLikelihood(const Tensor& logits, const Tensor& targets, Tensor nll) = 0;
  // kl[n] = KL(softmax(reference_i) || softmax(logits_i)) in nats; agree[n] = 1 where the two have
  // the same first maximum, else 0. Float.
  virtual void KlDivergence(const Tensor& reference, const Tensor& logits, Tensor kl,
                            Tensor agree) = 0;
  // g[n,V] (float) = softmax(logits_i) - softmax(reference_i): the gradient of that divergence with
  // respect to the logits.
  virtual void KlGradient(const Tensor& reference, const Tensor& logits, Tensor g) = 0;
};

// What of a backend decides the bits of results, and how they are computed by default.
struct Numerics {
  std::string backend, numerics_class;  // Backend::name, numerics_class
  bool fast_bf16 = false;
};
Numerics NumericsOf(const Backend& backend);

// The plain specification: loops a reader can check by eye. One thread, for tests.
std::unique_ptr<Backend> MakeReferenceBackend();

// The fast CPU backend: oneDNN for products, own vector code chosen at run time for the rest.
std::unique_ptr<Backend> MakeCpuBackend(int threads);

// The backend of the first NVIDIA GPU that CUDA_VISIBLE_DEVICES leaves; kUnavailable with one line
// where there is none, or the build is without CUDA.
StatusOr<std::unique_ptr<Backend>> MakeCudaBackend();

enum class BackendKind : uint8_t { kAuto, kCpu, kCuda };

// The backend of a kind; kAuto is the GPU where there is one, else the CPU. `threads` are the CPU's.
// Errors are those of MakeCudaBackend, of kCuda alone.
StatusOr<std::unique_ptr<Backend>> MakeBackend(BackendKind kind, int threads);

// For backends in host memory (reference, cpu) and their tests only: the tensor's bytes.
template <typename T>
T* HostData(const Tensor& tensor);
template <typename T>
const T* ConstHostData(const Tensor& tensor);

}  // namespace cvxq

#endif  // CVXQ_KERNELS_BACKEND_H_
