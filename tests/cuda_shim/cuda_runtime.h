// The part of the CUDA runtime and language that kernels/cuda uses, for the host compiler: with
// this folder first in the search path, its sources compile unchanged and run on the CPU, one block
// after another, a block's threads as fibers (shim.cc). What a card forbids ends the program with a
// line: a barrier or shuffle that some threads of the block or warp do not reach, access beyond the
// end of an allocation, vectors that are not aligned. Fresh memory is NaN.
#ifndef CVXQ_TESTS_CUDA_SHIM_CUDA_RUNTIME_H_
#define CVXQ_TESTS_CUDA_SHIM_CUDA_RUNTIME_H_

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block runs at a time
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __restrict__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint2 {
  unsigned x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// --- of the thread that runs ---
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_shim {

// Runs the kernel for every thread of the grid.
void RunGrid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel);
unsigned char* DynamicShared();

void RequireAligned(const void* p, size_t alignment);

// Waits until every thread of the block (warp) that has not returned is there.
void BlockBarrier();
void WarpBarrier();
// A slot of 16 bytes for each lane of the warp of this thread, of two alternating sets: what was
// written before WarpBarrier is there until the second barrier after it.
unsigned char* Slot(int lane);
void NextSlots();

// Each lane's value of `source`'s lane.
template <typename T>
T Exchange(T value, int source) {
  static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
  NextSlots();
  std::memcpy(Slot(static_cast<int>(threadIdx.x % 32)), &value, sizeof(T));
  WarpBarrier();
  std::memcpy(&value, Slot(source), sizeof(T));
  return value;
}

}  // namespace cuda_shim

inline void __syncthreads() { cuda_shim::BlockBarrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) { cuda_shim::WarpBarrier(); }
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return cuda_shim::Exchange(value, lane & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
  return cuda_shim::Exchange(value, static_cast<int>(threadIdx.x % 32) ^ lanes);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned lanes) {
  const unsigned lane = threadIdx.x % 32;
  return cuda_shim::Exchange(value, static_cast<int>(lane >= lanes ? lane - lanes : lane));
}
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned lanes) {
  const unsigned lane = threadIdx.x % 32;
  return cuda_shim::Exchange(value, static_cast<int>(lane + lanes < 32 ? lane + lanes : lane));
}
unsigned __ballot_sync(unsigned mask, bool predicate);

inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }

// --- the host's side ---
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100
};
using cudaStream_t = struct CudaShimStream*;
using cudaEvent_t = struct CudaShimEvent*;
using cudaMemPool_t = struct CudaShimPool*;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking, cudaEventDisableTiming };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t sharedMemPerBlockOptin;
};
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr name, void* value);
cudaError_t cudaMallocHost(void** data, size_t bytes);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute name, int value);

template <typename... Params, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Arguments... arguments) {
  const std::tuple<Params...> parameters(static_cast<Params>(arguments)...);
  cuda_shim::RunGrid(config->gridDim, config->blockDim, config->dynamicSmemBytes,
                     [&] { std::apply(kernel, parameters); });
  return cudaSuccess;
}

#endif  // CVXQ_TESTS_CUDA_SHIM_CUDA_RUNTIME_H_
