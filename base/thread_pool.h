// A fixed set of threads that runs loops over independent tiles.
//
//   ThreadPool pool(2);
//   pool.ParallelFor(tiles, [&](int64_t tile) { ... });
//
// Which thread runs a tile is left to chance, so a tile must write only what is its own and read
// nothing that another tile of the same loop writes. Tiles are cut from the problem, never from
// the number of threads: this is what makes results the same for any number of threads.
#ifndef CVXQ_BASE_THREAD_POOL_H_
#define CVXQ_BASE_THREAD_POOL_H_

#include <cstdint>
#include <functional>
#include <memory>

namespace cvxq {

class ThreadPool {
 public:
  // `threads` counts the caller's own thread, which works along; at least 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls body(i) once for each i in [0, count); returns when all are done. A loop started inside
  // a body runs on the calling thread alone. Loops from several outside threads take turns.
  void ParallelFor(int64_t count, const std::function<void(int64_t)>& body);

 private:
  struct State;
  void Work();

  const int threads_;
  std::unique_ptr<State> state_;
};

// The number of processors this process may use (its affinity mask, not the machine's total).
int AvailableProcessors();

}  // namespace cvxq

#endif  // CVXQ_BASE_THREAD_POOL_H_
