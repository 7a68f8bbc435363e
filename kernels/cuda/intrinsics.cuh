// What only a GPU has: single instructions behind single functions. The host compiler takes
// tests/cuda_shim/kernels/cuda/intrinsics.cuh instead (it is included with <> and stands earlier in
// the search path), which says the same in plain loops; everything else in kernels/cuda is compiled
// unchanged by both.
#ifndef CVXQ_KERNELS_CUDA_INTRINSICS_CUH_
#define CVXQ_KERNELS_CUDA_INTRINSICS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace cvxq::cuda {

// The block's dynamic shared memory, aligned to 16 bytes; its size is Grid::shared_bytes.
__device__ inline unsigned char* DynamicShared() {
  extern __shared__ __align__(16) unsigned char cvxq_dynamic_shared[];
  return cvxq_dynamic_shared;
}

// Conversions between float and the bits of small floats: nearest, ties to even.
__device__ inline uint16_t FloatToBF16Bits(float x) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
__device__ inline uint16_t FloatToF16Bits(float x) { return __half_as_ushort(__float2half_rn(x)); }
__device__ inline float F16BitsToFloat(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}

// Two BF16 in one register, `low` in the lower half.
__device__ inline uint32_t PackBF16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

// a * b + c with one rounding.
__device__ inline float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
// a * b and a + b, each rounded: never fused.
__device__ inline float MulRounded(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float AddRounded(float a, float b) { return __fadd_rn(a, b); }
// a + b rounded down: with b = 2^23 and 0 <= a < 2^22, floor(a) + 2^23, whose lowest bits are it.
__device__ inline float AddDown(float a, float b) { return __fadd_rd(a, b); }

// 2^x to about 2^-22, and 0 below 2^-126.
__device__ inline float FastExp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x to about 2^-23.
__device__ inline float FastReciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// d[16,8] += a[16,16] b[16,8] by one warp in BF16 with sums in float (mma.sync.m16n8k16). With g =
// lane / 4 and t = lane % 4, a lane holds
//   d: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1)
//   a: (g, 2t..), (g+8, 2t..), (g, 2t+8..), (g+8, 2t+8..)     pairs along the columns
//   b: (2t.., g), (2t+8.., g)                                 pairs along the rows
__device__ inline void MmaBF16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d[16,8] += a[16,32] b[32,8] by one warp in integers of 8 bits with a sign (mma.sync.m16n8k32); a
// lane holds of d what it holds in MmaBF16, and
//   a: (g, 4t..), (g+8, 4t..), (g, 4t+16..), (g+8, 4t+16..)     fours along the columns
//   b: (4t.., g), (4t+16.., g)                                  fours along the rows
__device__ inline void MmaInt8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four (two) 8 x 8 matrices of 16-bit elements from shared memory into a warp's registers: lane i
// gives the address of row i % 8 of matrix i / 8, 16 bytes. Lane l gets of matrix m the elements
// (l / 4, 2 (l % 4)) and the one after it, or of its transpose.
__device__ inline void LoadMatrices4(uint32_t (&r)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
__device__ inline void LoadMatrices4Transposed(uint32_t (&r)[4], const void* row) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// Starts a copy of 16 bytes from global to shared memory; CommitCopies ends a group of them, and
// WaitForCopies<N> waits until at most the N last groups of this thread are under way.
__device__ inline void CopyAsync16(void* shared, const void* global) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroups>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// A kernel that was started early (Grid::early) waits until those before it are done, whose results
// it needs and whose operands it may write; and lets those after it start early themselves.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ inline void WaitForEarlierKernels() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
__device__ inline void LetLaterKernelsStart() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
#else
__device__ inline void WaitForEarlierKernels() {}
__device__ inline void LetLaterKernelsStart() {}
#endif

// Brings what stands there to the second-level cache.
__device__ inline void PrefetchToL2(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// A vector of elements at p, which is a multiple of its alignment: one instruction up to 16 bytes.
template <typename V>
__device__ V LoadVector(const void* p) {
  return *static_cast<const V*>(p);
}
template <typename V>
__device__ void StoreVector(void* p, const V& vector) {
  *static_cast<V*>(p) = vector;
}

// 16 bytes that are read once: kept out of the first-level cache.
__device__ inline uint4 LoadStreaming(const uint4* p) { return __ldcs(p); }

// The low 32 bits of (high:low) >> shift, shift in [0, 32).
__device__ inline uint32_t ShiftPair(uint32_t low, uint32_t high, int shift) {
  return __funnelshift_r(low, high, shift);
}
// Bytes of (b:a), byte i chosen by the i-th half-byte of `selector`, each in [0, 8); the selector's
// upper half does not count.
__device__ inline uint32_t ChooseBytes(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(a), "r"(b), "r"(selector));
  return bytes;
}
// The nearest integer, ties to even; |x| < 2^31.
__device__ inline int RoundToInt(float x) { return __float2int_rn(x); }
// The largest over the lanes of a warp.
__device__ inline uint32_t WarpMax(uint32_t x) { return __reduce_max_sync(0xffffffffu, x); }

// Addresses in shared memory, of 32 bits, and the word at one.
__device__ inline uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
__device__ inline uint32_t LoadShared(uint32_t address) {
  uint32_t word;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address));
  return word;
}

// Adds one to a count that blocks share, and returns what it was. What this thread wrote before,
// and others before a barrier with it, is seen by whoever takes a later ticket, says
// SeeEarlierTickets, and reads it by LoadFromOthers.
__device__ inline uint32_t TakeTicket(uint32_t* count) {
  __threadfence();
  return atomicAdd(count, 1u);
}
__device__ inline void SeeEarlierTickets() { __threadfence(); }
__device__ inline float LoadFromOthers(const float* p) { return __ldcg(p); }

}  // namespace cvxq::cuda

#endif  // CVXQ_KERNELS_CUDA_INTRINSICS_CUH_
