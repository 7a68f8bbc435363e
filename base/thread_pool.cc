#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/interrupt.h"

namespace cvxq {
namespace {

thread_local bool inside_loop = false;

}  // namespace

struct ThreadPool::State {
  std::mutex one_loop;  // held for a whole ParallelFor
  std::mutex mutex;     // guards everything below but `next`
  std::condition_variable start, done;
  std::vector<std::thread> helpers;
  const std::function<void(int64_t)>* body = nullptr;
  int64_t count = 0;
  std::atomic<int64_t> next{0};
  uint64_t loop = 0;  // number of the current loop
  int busy = 0;       // helpers still inside the current loop
  bool stop = false;

  void RunTiles() {
    inside_loop = true;
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) (*body)(i);
    inside_loop = false;
  }
};

ThreadPool::ThreadPool(int threads)
    : threads_(std::max(1, threads)), state_(std::make_unique<State>()) {
  for (int i = 1; i < threads_; ++i) {
    state_->helpers.emplace_back([this, stop = StopScope::Current()] {
      const StopScope scope(stop);
      Work();
    });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->start.notify_all();
  for (std::thread& helper : state_->helpers) helper.join();
}

void ThreadPool::Work() {
  State& s = *state_;
  uint64_t seen = 0;
  for (;;) {
    {
      std::unique_lock lock(s.mutex);
      s.start.wait(lock, [&] { return s.stop || s.loop != seen; });
      if (s.stop) return;
      seen = s.loop;
    }
    s.RunTiles();
    std::lock_guard lock(s.mutex);
    if (--s.busy == 0) s.done.notify_one();
  }
}

void ThreadPool::ParallelFor(int64_t count, const std::function<void(int64_t)>& body) {
  if (inside_loop || threads_ == 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  State& s = *state_;
  std::lock_guard one_loop(s.one_loop);
  {
    std::lock_guard lock(s.mutex);
    s.body = &body;
    s.count = count;
    s.next.store(0, std::memory_order_relaxed);
    s.busy = static_cast<int>(s.helpers.size());
    ++s.loop;
  }
  s.start.notify_all();
  s.RunTiles();
  std::unique_lock lock(s.mutex);
  s.done.wait(lock, [&] { return s.busy == 0; });
}

int AvailableProcessors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

}  // namespace cvxq
