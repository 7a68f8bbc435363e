#include "kernels/cpu/product.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <unordered_map>

#include "kernels/contract.h"

namespace cvxq {
namespace {

using dnnl::memory;

struct ProductHash {
  size_t operator()(const Product& p) const {
    size_t hash = 0;
    for (int64_t x : {p.m, p.n, p.k, p.lda, p.ldb, p.ldc}) hash = hash * 0x9e3779b97f4a7c15u + x;
    return hash * 16 + p.transpose_a * 8 + p.transpose_b * 4 + p.accumulate * 2 +
           (p.dtype == DType::kBF16);
  }
};

// A compiled product with its argument list, of which only the addresses change.
struct Primitive {
  dnnl::matmul matmul;
  memory a, b, c;
  std::unordered_map<int, memory> arguments;
};

// oneDNN as one thread uses it. Creating a primitive takes about as long as multiplying a tile, so
// they are kept.
class ThreadProducts {
 public:
  ThreadProducts() : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    // oneDNN takes its number of threads from OpenMP, whose setting is each thread's own.
    omp_set_num_threads(1);
  }

  void Run(const Product& product, const void* a, const void* b, float* c) {
    if (cache_.size() >= kCacheSize) cache_.clear();
    auto [it, is_new] = cache_.try_emplace(product);
    Primitive& primitive = it->second;
    if (is_new) primitive = Make(product);
    primitive.a.set_data_handle(const_cast<void*>(a));
    primitive.b.set_data_handle(const_cast<void*>(b));
    primitive.c.set_data_handle(c);
    primitive.matmul.execute(stream_, primitive.arguments);
    stream_.wait();
  }

 private:
  static constexpr size_t kCacheSize = 2048;

  Primitive Make(const Product& p) {
    const memory::data_type type =
        p.dtype == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
    using Dims = memory::dims;
    const memory::desc a({p.m, p.k}, type, p.transpose_a ? Dims{1, p.lda} : Dims{p.lda, 1});
    const memory::desc b({p.k, p.n}, type, p.transpose_b ? Dims{1, p.ldb} : Dims{p.ldb, 1});
    const memory::desc c({p.m, p.n}, memory::data_type::f32, Dims{p.ldc, 1});
    dnnl::primitive_attr attributes;
    if (p.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    Primitive primitive;
    primitive.matmul = dnnl::matmul({dnnl::matmul::desc(a, b, c), attributes, engine_});
    primitive.a = memory(a, engine_, nullptr);
    primitive.b = memory(b, engine_, nullptr);
    primitive.c = memory(c, engine_, nullptr);
    primitive.arguments = {
        {DNNL_ARG_SRC, primitive.a}, {DNNL_ARG_WEIGHTS, primitive.b}, {DNNL_ARG_DST, primitive.c}};
    return primitive;
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  std::unordered_map<Product, Primitive, ProductHash> cache_;
};

void Run(const Product& product, const void* a, const void* b, float* c) {
  thread_local ThreadProducts products;
  try {
    products.Run(product, a, b, c);
  } catch (const dnnl::error& error) {
    Require(false, error.what());
  }
}

// Widens rows of BF16 into dense floats.
const float* Widen(const ProductOptions& options, int slot, const void* x, int64_t rows,
                   int64_t columns, int64_t stride) {
  float* out = FloatScratch(slot, rows * columns);
  const uint16_t* in = static_cast<const uint16_t*>(x);
  for (int64_t i = 0; i < rows; ++i) {
    options.vector_ops->bf16_to_float(in + i * stride, out + i * columns, columns);
  }
  return out;
}

const char* IsaName() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::avx512_core_amx:
      return "avx512_amx";
    case dnnl::cpu_isa::avx512_core_bf16:
      return "avx512_bf16";
    case dnnl::cpu_isa::avx512_core_vnni:
    case dnnl::cpu_isa::avx512_core:
      return "avx512";
    case dnnl::cpu_isa::avx2_vnni:
    case dnnl::cpu_isa::avx2:
      return "avx2";
    default:
      return "sse";
  }
}

}  // namespace

bool HasNativeBf16() {
  const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
  return isa == dnnl::cpu_isa::avx512_core_bf16 || isa == dnnl::cpu_isa::avx512_core_amx;
}

const char* ProductNumerics() {
  static const std::string name = "onednn" + std::to_string(dnnl_version()->major) + "." +
                                  std::to_string(dnnl_version()->minor) + "-" + IsaName();
  return name.c_str();
}

void Multiply(const ProductOptions& options, const Product& product, const void* a, const void* b,
              float* c) {
  if (product.m == 0 || product.n == 0) return;
  if (product.k == 0) {
    for (int64_t i = 0; i < product.m && !product.accumulate; ++i) {
      std::fill_n(c + i * product.ldc, product.n, 0.0f);
    }
    return;
  }
  if (product.dtype == DType::kF32 || options.native_bf16) return Run(product, a, b, c);
  Product wide = product;
  wide.dtype = DType::kF32;
  wide.lda = product.transpose_a ? product.m : product.k;
  wide.ldb = product.transpose_b ? product.k : product.n;
  const float* wide_a =
      Widen(options, 0, a, product.transpose_a ? product.k : product.m, wide.lda, product.lda);
  const float* wide_b =
      Widen(options, 1, b, product.transpose_b ? product.n : product.k, wide.ldb, product.ldb);
  Run(wide, wide_a, wide_b, c);
}

void MultiplyTile(const ProductOptions& options, const Product& product, const Tile& tile,
                  const void* a, const void* b, float* c) {
  Product part = product;
  part.m = tile.rows;
  part.n = tile.columns;
  const int64_t size = ByteSize(product.dtype);
  const int64_t a_offset = product.transpose_a ? tile.row : tile.row * product.lda;
  const int64_t b_offset = product.transpose_b ? tile.column * product.ldb : tile.column;
  Multiply(options, part, static_cast<const std::byte*>(a) + a_offset * size,
           static_cast<const std::byte*>(b) + b_offset * size,
           c + tile.row * product.ldc + tile.column);
}

TileGrid::TileGrid(int64_t m, int64_t n) : TileGrid(m, n, 512, 512) {
  constexpr int64_t kEnough = 64, kSmallest = 64;
  while (count() < kEnough && (rows_ > kSmallest || columns_ > kSmallest)) {
    const bool cut_rows = std::min(m, rows_) > std::min(n, columns_);
    int64_t& size = (cut_rows || columns_ == kSmallest) && rows_ > kSmallest ? rows_ : columns_;
    size /= 2;
    *this = TileGrid(m, n, rows_, columns_);
  }
}

TileGrid::TileGrid(int64_t m, int64_t n, int64_t rows, int64_t columns)
    : m_(m),
      n_(n),
      rows_(rows),
      columns_(columns),
      row_tiles_((m + rows - 1) / rows),
      column_tiles_((n + columns - 1) / columns) {}

Tile TileGrid::At(int64_t row_tile, int64_t column_tile) const {
  Tile tile{.row = row_tile * rows_, .column = column_tile * columns_};
  tile.rows = std::min(rows_, m_ - tile.row);
  tile.columns = std::min(columns_, n_ - tile.column);
  return tile;
}

void* ThreadScratch(int slot, int64_t bytes) {
  struct Piece {
    std::unique_ptr<void, decltype(&std::free)> data{nullptr, &std::free};
    int64_t bytes = 0;
  };
  thread_local Piece pieces[8];
  Piece& piece = pieces[slot];
  if (piece.bytes < bytes) {
    piece.bytes = (bytes + 63) / 64 * 64;
    piece.data.reset();
    piece.data.reset(std::aligned_alloc(64, piece.bytes));
    Require(piece.data != nullptr, "out of host memory for a thread's scratch");
  }
  return piece.data.get();
}

}  // namespace cvxq
