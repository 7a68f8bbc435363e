// Threads of a block as fibers, and device memory in the host's.
#include <cuda_runtime.h>
#include <sys/mman.h>

#include <boost/context/fiber.hpp>
#include <boost/context/fixedsize_stack.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_shim {
namespace {

constexpr int kWarp = 32, kMaxThreads = 1024;
constexpr size_t kStackBytes = 128 << 10;
constexpr size_t kMaxShared = 227 << 10;  // of a block, compute capability 9.0
constexpr unsigned char kFresh = 0xff;    // a NaN in F32, BF16 and F16

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "cuda_shim: %s, in block %u,%u,%u, thread %u\n", what, blockIdx.x,
               blockIdx.y, blockIdx.z, threadIdx.x);
  std::abort();
}

enum class State { kRuns, kAtBlockBarrier, kAtWarpBarrier, kReturned };

struct Thread {
  State state = State::kReturned;
  boost::context::fiber fiber, scheduler;
  int slots = 0;  // set of the last exchange
};

struct Warp {
  unsigned char slots[2][kWarp][16];
};

// The block that runs.
struct Block {
  const std::function<void()>* kernel = nullptr;
  std::vector<Thread> threads{kMaxThreads};
  std::vector<Warp> warps{kMaxThreads / kWarp};
  alignas(16) unsigned char shared[kMaxShared];
  unsigned count = 0;

  Thread& current() { return threads[threadIdx.x]; }

  void Resume(unsigned i) {
    Thread& thread = threads[i];
    threadIdx = dim3(i);
    if (!thread.fiber) {
      thread.fiber =
          boost::context::fiber(std::allocator_arg, boost::context::fixedsize_stack(kStackBytes),
                                [this, &thread](boost::context::fiber&& scheduler) {
                                  thread.scheduler = std::move(scheduler);
                                  for (;;) {
                                    (*kernel)();
                                    thread.state = State::kReturned;
                                    thread.scheduler = std::move(thread.scheduler).resume();
                                  }
                                  return boost::context::fiber();
                                });
    }
    thread.fiber = std::move(thread.fiber).resume();
  }

  void Wait(State state) {
    Thread& thread = current();
    const unsigned i = threadIdx.x;
    thread.state = state;
    thread.scheduler = std::move(thread.scheduler).resume();
    threadIdx = dim3(i);
  }

  bool All(unsigned begin, unsigned end, State state, bool or_returned) const {
    for (unsigned i = begin; i < end; ++i) {
      if (threads[i].state != state && !(or_returned && threads[i].state == State::kReturned)) {
        return false;
      }
    }
    return true;
  }
  void Release(unsigned begin, unsigned end) {
    for (unsigned i = begin; i < end; ++i) {
      if (threads[i].state != State::kReturned) threads[i].state = State::kRuns;
    }
  }

  void Run() {
    for (unsigned i = 0; i < count; ++i) threads[i].state = State::kRuns;
    std::memset(shared, kFresh, sizeof(shared));
    for (;;) {
      bool moved = false;
      for (unsigned begin = 0; begin < count; begin += kWarp) {
        for (;;) {  // a warp goes on until it waits for the others
          bool ran = false;
          for (unsigned i = begin; i < begin + kWarp; ++i) {
            if (threads[i].state != State::kRuns) continue;
            Resume(i);
            ran = moved = true;
          }
          if (All(begin, begin + kWarp, State::kAtWarpBarrier, false)) {
            Release(begin, begin + kWarp);
          } else if (!ran) {
            break;
          }
        }
      }
      if (All(0, count, State::kReturned, false)) return;
      if (All(0, count, State::kAtBlockBarrier, true)) {
        Release(0, count);
      } else if (!moved) {
        Die("some threads wait at a barrier that others do not reach");
      }
    }
  }
};

Block& block() {
  static Block* const block = new Block;
  return *block;
}

}  // namespace

void RunGrid(dim3 grid, dim3 threads, size_t shared_bytes, const std::function<void()>& kernel) {
  if (threads.x == 0 || threads.x > kMaxThreads || threads.x % kWarp != 0 || threads.y != 1 ||
      threads.z != 1 || shared_bytes > kMaxShared || grid.y > 65535 || grid.z > 65535) {
    Die("a launch that no card takes");
  }
  gridDim = grid;
  blockDim = threads;
  block().kernel = &kernel;
  block().count = threads.x;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        block().Run();
      }
    }
  }
}

void RequireAligned(const void* p, size_t alignment) {
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0) Die("a vector is not aligned");
}

unsigned char* DynamicShared() { return block().shared; }
void BlockBarrier() { block().Wait(State::kAtBlockBarrier); }
void WarpBarrier() { block().Wait(State::kAtWarpBarrier); }
unsigned char* Slot(int lane) {
  return block().warps[threadIdx.x / kWarp].slots[block().current().slots][lane];
}
void NextSlots() { block().current().slots ^= 1; }

// --- memory ---

namespace {

// An allocation ends where a page begins that nobody may touch.
constexpr size_t kPage = 4096, kUnit = 256;
constexpr size_t kLargest = size_t{4} << 30;

size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

std::map<void*, size_t>& allocations() {
  static auto* const map = new std::map<void*, size_t>;
  return *map;
}

unsigned char* GuardOf(void* data, size_t bytes) {
  return static_cast<unsigned char*>(data) + RoundUp(bytes, kUnit);
}

void OnFault(int, siginfo_t* info, void*) {
  for (const auto& [data, bytes] : allocations()) {
    const unsigned char* guard = GuardOf(data, bytes);
    const auto* at = static_cast<const unsigned char*>(info->si_addr);
    if (at >= guard && at < guard + kPage) {
      Die("something was read or written beyond the end of an allocation");
    }
  }
  std::signal(SIGSEGV, SIG_DFL);  // and so again
}

}  // namespace
}  // namespace cuda_shim

using cuda_shim::allocations;

unsigned __ballot_sync(unsigned, bool predicate) {
  cuda_shim::NextSlots();
  *cuda_shim::Slot(static_cast<int>(threadIdx.x % 32)) = predicate ? 1 : 0;
  cuda_shim::WarpBarrier();
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= unsigned{*cuda_shim::Slot(lane)} << lane;
  return bits;
}

cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t) {
  using namespace cuda_shim;
  static const bool watched = [] {
    struct sigaction action = {};
    action.sa_sigaction = OnFault;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGSEGV, &action, nullptr) == 0;
  }();
  if (!watched || bytes > kLargest) return cudaErrorMemoryAllocation;
  const size_t size = RoundUp(bytes, kUnit), mapped = RoundUp(size, kPage);
  void* pages =
      mmap(nullptr, mapped + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return cudaErrorMemoryAllocation;
  unsigned char* const guard = static_cast<unsigned char*>(pages) + mapped;
  if (mprotect(guard, kPage, PROT_NONE) != 0) return cudaErrorMemoryAllocation;
  *data = guard - size;
  std::memset(*data, kFresh, size);
  allocations()[*data] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeAsync(void* data, cudaStream_t) {
  using namespace cuda_shim;
  const auto it = allocations().find(data);
  if (it == allocations().end()) Die("memory is freed that was not allocated");
  unsigned char* const guard = GuardOf(data, it->second);
  const size_t mapped = RoundUp(RoundUp(it->second, kUnit), kPage);
  allocations().erase(it);
  munmap(guard - mapped, mapped + kPage);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** data, size_t bytes) {
  *data = std::malloc(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = cuda_shim::kLargest;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}

// --- all else happens at once ---

const char* cudaGetErrorString(cudaError_t) { return "an error of the shim"; }
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorOfTheShim"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {.name = "the host's threads",
                 .major = 9,
                 .minor = 0,
                 .multiProcessorCount = 3,
                 .sharedMemPerBlockOptin = 227 << 10};
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t*, int) { return cudaSuccess; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
