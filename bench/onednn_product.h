// oneDNN alone, the yardstick of the benches: one call for a whole product with all threads.
#ifndef CVXQ_BENCH_ONEDNN_PRODUCT_H_
#define CVXQ_BENCH_ONEDNN_PRODUCT_H_

#include <omp.h>

#include <algorithm>
#include <functional>
#include <oneapi/dnnl/dnnl.hpp>
#include <thread>

#include "kernels/cpu/product.h"

namespace cvxq {

// The time by `measure` of the product, in a thread of its own with its own number of OpenMP
// threads: the better of B as it lies and of B in oneDNN's own layout, which is not charged for.
inline double OneDnnSeconds(const Product& p, int threads, const void* a, const void* b, float* c,
                            const std::function<double(const std::function<void()>&)>& measure) {
  double least = 1e30;
  std::thread([&] {
    omp_set_num_threads(threads);
    using dnnl::memory;
    using Dims = memory::dims;
    dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    const auto type = p.dtype == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
    const memory::desc a_desc({p.m, p.k}, type, p.transpose_a ? Dims{1, p.lda} : Dims{p.lda, 1});
    const memory::desc b_plain({p.k, p.n}, type, p.transpose_b ? Dims{1, p.ldb} : Dims{p.ldb, 1});
    const memory::desc b_any({p.k, p.n}, type, memory::format_tag::any);
    const memory::desc c_desc({p.m, p.n}, memory::data_type::f32, Dims{p.ldc, 1});
    for (const memory::desc& b_desc : {b_plain, b_any}) {
      const dnnl::matmul::primitive_desc desc({a_desc, b_desc, c_desc}, engine);
      const dnnl::matmul matmul(desc);
      memory a_memory(a_desc, engine, const_cast<void*>(a)), c_memory(c_desc, engine, c);
      memory b_memory(b_plain, engine, const_cast<void*>(b));
      if (desc.weights_desc() != b_plain) {
        memory reordered(desc.weights_desc(), engine);
        dnnl::reorder(b_memory, reordered).execute(stream, b_memory, reordered);
        stream.wait();
        b_memory = reordered;
      }
      least = std::min(least, measure([&] {
                         matmul.execute(stream, {{DNNL_ARG_SRC, a_memory},
                                                 {DNNL_ARG_WEIGHTS, b_memory},
                                                 {DNNL_ARG_DST, c_memory}});
                         stream.wait();
                       }));
    }
  }).join();
  return least;
}

}  // namespace cvxq

#endif  // CVXQ_BENCH_ONEDNN_PRODUCT_H_
