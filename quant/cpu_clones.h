// CVXQ_CPU_CLONES, before a plain loop's function: one version for each instruction set, picked by
// the loader. Nothing is contracted or reassociated, so all give the same bits.
#ifndef CVXQ_QUANT_CPU_CLONES_H_
#define CVXQ_QUANT_CPU_CLONES_H_

#if defined(__SANITIZE_THREAD__)  // g++
#define CVXQ_THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)  // clang++
#define CVXQ_THREAD_SANITIZER
#endif
#endif

// ThreadSanitizer instruments the picker, which the loader runs before there is anything to report
// to: a crash before main().
#if defined(CVXQ_THREAD_SANITIZER)
#define CVXQ_CPU_CLONES
#else
#define CVXQ_CPU_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif

#endif  // CVXQ_QUANT_CPU_CLONES_H_
