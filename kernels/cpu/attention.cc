// Attention and its backward pass, by tasks of one head and a block of query rows: the scores of a
// block against all the keys it can see are one product, held in the thread's scratch.
#include <algorithm>
#include <cstring>

#include "kernels/contract.h"
#include "kernels/cpu/cpu_backend.h"

namespace cvxq {
namespace {

constexpr int64_t kBlock = 128;  // query rows

// A block of query rows of one sequence and the keys [key, key + keys) that any of them sees.
struct QueryBlock {
  int64_t row = 0, rows = 0;  // within the sequence's queries
  int64_t position = 0;       // the first row's key position
  int64_t key = 0, keys = 0;
};

QueryBlock BlockAt(const AttentionSpec& spec, int64_t index, int64_t Tq, int64_t Tk) {
  QueryBlock block;
  block.row = index * kBlock;
  block.rows = std::min(kBlock, Tq - block.row);
  block.position = Tk - Tq + block.row;
  if (spec.window > 0) {
    // Whole blocks, so that few shapes of products occur.
    block.key = std::max<int64_t>(0, block.position - spec.window + 1) / kBlock * kBlock;
  }
  block.keys = block.position + block.rows - block.key;
  return block;
}

// The keys that row i of a block sees, counted from block.key.
struct Visible {
  int64_t begin = 0, count = 0;
};

Visible VisibleKeys(const AttentionSpec& spec, const QueryBlock& block, int64_t i) {
  const int64_t end = block.position + i + 1;
  const int64_t begin = std::max(block.key, spec.window > 0 ? end - spec.window : int64_t{0});
  return {begin - block.key, end - begin};
}

void ClearOutside(float* line, const Visible& visible, int64_t keys) {
  std::fill(line, line + visible.begin, 0.0f);
  std::fill(line + visible.begin + visible.count, line + keys, 0.0f);
}

// Operands of products in F32 or BF16.
struct Operand {
  explicit Operand(const Tensor& tensor)
      : data(ConstHostData<std::byte>(tensor)), size(ByteSize(tensor.dtype)) {}
  const std::byte* At(int64_t element) const { return data + element * size; }

  const std::byte* data;
  int64_t size;
};

// A float matrix of scratch as an operand of `dtype`: itself or a BF16 copy in the given slot.
const void* AsOperand(const VectorOps& ops, DType dtype, int slot, const float* x, int64_t count) {
  if (dtype == DType::kF32) return x;
  uint16_t* out = static_cast<uint16_t*>(ThreadScratch(slot, count * 2));
  ops.float_to_bf16(x, out, count);
  return out;
}

// One query row: plain dot products along the keys, the shape of generation.
void AttendOne(const VectorOps& ops, const AttentionSpec& spec, const float* q, const float* k,
               const float* v, int64_t Tk, int64_t kv_width, float* y) {
  const int64_t d = spec.head_dim;
  const int64_t begin = spec.window > 0 ? std::max<int64_t>(0, Tk - spec.window) : 0;
  float* p = FloatScratch(3, Tk - begin);
  for (int64_t t = begin; t < Tk; ++t) p[t - begin] = ops.dot(q, k + t * kv_width, d);
  ops.attention_softmax(spec.scale, spec.softcap, p, nullptr, Tk - begin);
  std::fill_n(y, d, 0.0f);
  for (int64_t t = begin; t < Tk; ++t) ops.add_scaled(p[t - begin], v + t * kv_width, y, d);
}

}  // namespace

void CpuBackend::Attention(const AttentionSpec& spec, int64_t B, const Tensor& q, const Tensor& k,
                           const Tensor& v, bool compute_bf16, Tensor y) {
  if (failed()) return;
  contract::Attention(spec, B, q, k, v, y);
  const int64_t Tq = q.shape[0] / B, Tk = k.shape[0] / B, d = spec.head_dim;
  const int64_t width = q.shape[1], kv_width = k.shape[1], group = spec.heads / spec.kv_heads;
  const bool is_float = y.dtype == DType::kF32;

  // Stores a task's rows of d floats where y is BF16; a float y is written in place.
  const auto store = [&](const float* rows, int64_t count, int64_t at) {
    for (int64_t i = 0; i < count && !is_float; ++i) {
      ops_.float_to_bf16(rows + i * d, HostData<uint16_t>(y) + at + i * width, d);
    }
  };

  if (Tq == 1) {
    const float *queries = ConstHostData<float>(q), *keys = ConstHostData<float>(k),
                *values = ConstHostData<float>(v);
    pool_.ParallelFor(B * spec.heads, [&](int64_t task) {
      const int64_t b = task / spec.heads, h = task % spec.heads;
      const int64_t kv = b * Tk * kv_width + h / group * d, at = b * width + h * d;
      float* out = is_float ? HostData<float>(y) + at : FloatScratch(2, d);
      AttendOne(ops_, spec, queries + at, keys + kv, values + kv, Tk, kv_width, out);
      store(out, 1, at);
    });
    return;
  }

  const DType dtype = compute_bf16 && features_.native_bf16 ? DType::kBF16 : DType::kF32;
  const Tensor q_operand = As(dtype, q), k_operand = As(dtype, k), v_operand = As(dtype, v);
  if (failed()) return;
  const Operand queries(q_operand), keys(k_operand), values(v_operand);
  const int64_t blocks = (Tq + kBlock - 1) / kBlock;
  pool_.ParallelFor(B * spec.heads * blocks, [&](int64_t task) {
    // The last blocks are the longest and come first.
    const int64_t head_index = task % (B * spec.heads);
    const int64_t b = head_index / spec.heads, h = head_index % spec.heads;
    const QueryBlock block = BlockAt(spec, blocks - 1 - task / (B * spec.heads), Tq, Tk);
    const int64_t at = (b * Tq + block.row) * width + h * d;
    const int64_t kv = (b * Tk + block.key) * kv_width + h / group * d;
    float* p = FloatScratch(2, block.rows * block.keys);
    Multiply(products_,
             {.m = block.rows,
              .n = block.keys,
              .k = d,
              .transpose_b = true,
              .lda = width,
              .ldb = kv_width,
              .ldc = block.keys,
              .dtype = dtype},
             queries.At(at), keys.At(kv), p);
    for (int64_t i = 0; i < block.rows; ++i) {
      const Visible visible = VisibleKeys(spec, block, i);
      float* line = p + i * block.keys;
      ops_.attention_softmax(spec.scale, spec.softcap, line + visible.begin, nullptr,
                             visible.count);
      ClearOutside(line, visible, block.keys);
    }
    float* out = is_float ? HostData<float>(y) + at : FloatScratch(4, block.rows * d);
    Multiply(products_,
             {.m = block.rows,
              .n = d,
              .k = block.keys,
              .lda = block.keys,
              .ldb = kv_width,
              .ldc = is_float ? width : d,
              .dtype = dtype},
             AsOperand(ops_, dtype, 3, p, block.rows * block.keys), values.At(kv), out);
    store(out, block.rows, at);
  });
}

// The formulas are in reference/attention.cc. A task is one head of one sequence, so that its sums
// over query blocks have one order; the heads of a group each make their own gradient of k and v,
// added in order at the end.
void CpuBackend::AttentionBackward(const AttentionSpec& spec, int64_t B, const Tensor& q,
                                   const Tensor& k, const Tensor& v, const Tensor& gy,
                                   bool compute_bf16, Tensor gq, Tensor gk, Tensor gv) {
  if (failed()) return;
  contract::AttentionBackward(spec, B, q, k, v, gy, gq, gk, gv);
  const int64_t T = q.shape[0] / B, d = spec.head_dim, n = q.shape[0];
  const int64_t width = q.shape[1], kv_width = k.shape[1], group = spec.heads / spec.kv_heads;
  const DType dtype = compute_bf16 && features_.native_bf16 ? DType::kBF16 : DType::kF32;
  const Tensor q_operand = As(dtype, q), k_operand = As(dtype, k), v_operand = As(dtype, v),
               gy_operand = As(dtype, gy);
  // Gradients of k and v for each query head.
  const Tensor gk_heads = group == 1 ? gk : Allocate(DType::kF32, q.shape);
  const Tensor gv_heads = group == 1 ? gv : Allocate(DType::kF32, q.shape);
  if (failed()) return;
  const Operand queries(q_operand), keys(k_operand), values(v_operand), gradients(gy_operand);
  float *gq_data = HostData<float>(gq), *gk_data = HostData<float>(gk_heads),
        *gv_data = HostData<float>(gv_heads);
  const int64_t blocks = (T + kBlock - 1) / kBlock;

  pool_.ParallelFor(B * spec.heads, [&](int64_t task) {
    const int64_t b = task / spec.heads, h = task % spec.heads;
    for (int64_t t = b * T; t < (b + 1) * T; ++t) {
      std::fill_n(gk_data + t * width + h * d, d, 0.0f);
      std::fill_n(gv_data + t * width + h * d, d, 0.0f);
    }
    for (int64_t index = 0; index < blocks; ++index) {
      const QueryBlock block = BlockAt(spec, index, T, T);
      const int64_t count = block.rows * block.keys;
      const int64_t at = (b * T + block.row) * width + h * d;             // in q, gy, gq
      const int64_t kv = (b * T + block.key) * kv_width + h / group * d;  // in k, v
      const int64_t kv_head = (b * T + block.key) * width + h * d;        // in gk, gv of heads
      const Product scores{.m = block.rows,
                           .n = block.keys,
                           .k = d,
                           .transpose_b = true,
                           .lda = width,
                           .ldb = kv_width,
                           .ldc = block.keys,
                           .dtype = dtype};
      const Product to_queries{.m = block.rows,
                               .n = d,
                               .k = block.keys,
                               .lda = block.keys,
                               .ldb = kv_width,
                               .ldc = width,
                               .dtype = dtype};
      const Product to_keys{.m = block.keys,
                            .n = d,
                            .k = block.rows,
                            .transpose_a = true,
                            .lda = block.keys,
                            .ldb = width,
                            .ldc = width,
                            .dtype = dtype,
                            .accumulate = true};
      float *p = FloatScratch(2, count), *gs = FloatScratch(3, count);
      float* slope = spec.softcap > 0 ? FloatScratch(4, count) : nullptr;
      Multiply(products_, scores, queries.At(at), keys.At(kv), p);
      Multiply(products_, scores, gradients.At(at), values.At(kv), gs);
      for (int64_t i = 0; i < block.rows; ++i) {
        const Visible visible = VisibleKeys(spec, block, i);
        const int64_t line = i * block.keys, first = line + visible.begin;
        float* slopes = slope == nullptr ? nullptr : slope + first;
        ops_.attention_softmax(spec.scale, spec.softcap, p + first, slopes, visible.count);
        ops_.attention_softmax_backward(spec.scale, p + first, slopes, gs + first, visible.count);
        ClearOutside(p + line, visible, block.keys);
        ClearOutside(gs + line, visible, block.keys);
      }
      const void* gs_operand = AsOperand(ops_, dtype, 5, gs, count);
      Multiply(products_, to_queries, gs_operand, keys.At(kv), gq_data + at);
      Multiply(products_, to_keys, gs_operand, queries.At(at), gk_data + kv_head);
      Multiply(products_, to_keys, AsOperand(ops_, dtype, 6, p, count), gradients.At(at),
               gv_data + kv_head);
    }
  });
  if (group == 1) return;

  float *gk_sum = HostData<float>(gk), *gv_sum = HostData<float>(gv);
  ParallelPieces(n, width, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < spec.heads; ++h) {
        const int64_t from = t * width + h * d, to = t * kv_width + h / group * d;
        if (h % group == 0) {
          std::copy_n(gk_data + from, d, gk_sum + to);
          std::copy_n(gv_data + from, d, gv_sum + to);
        } else {
          ops_.add_scaled(1, gk_data + from, gk_sum + to, d);
          ops_.add_scaled(1, gv_data + from, gv_sum + to, d);
        }
      }
    }
  });
}

}  // namespace cvxq
