// Chunks of work for XLA's own thread pool: taken one by one from a counter, by the caller as by every helper.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace jaxpaged {

namespace internal {

template <typename Body>
struct Queue {
  Queue(Body body, int64_t count) : body(std::move(body)), count(count) {}

  void work() {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      body(i);
      done.fetch_add(1, std::memory_order_release);
    }
  }

  Body body;
  const int64_t count;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> done{0};
};

}  // namespace internal

// body(i) once for every i in [0, count), in any order and on any thread. A helper that starts late finds nothing left
// and touches nothing but the queue, which it keeps alive: the caller waits for chunks that were begun, never for a
// helper that was not.
template <typename Body>
void parallel_for(xla::ffi::ThreadPool& pool, int64_t count, Body body) {
  if (count <= 0) return;
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  auto queue = std::make_shared<internal::Queue<Body>>(std::move(body), count);
  for (int64_t i = 0; i < helpers; ++i) {
    pool.Schedule([queue] { queue->work(); });
  }
  queue->work();
  for (int spins = 0; queue->done.load(std::memory_order_acquire) < count; ++spins) {
    if (spins > 2000) std::this_thread::yield();
  }
}

}  // namespace jaxpaged
