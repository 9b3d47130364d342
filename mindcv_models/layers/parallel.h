// Loops on all cores of the CPU.
//
// OpenMP ends a loop when each of its threads has come. A thread whose core another process has taken comes late, though
// there may be nothing left to do. Here whoever is free takes the next part of a loop, and only those are waited for
// that have begun one.

#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace parallel {

constexpr int64_t kParts = 8;  // of what is left of a loop, for each thread: so that those of a slow one are few
constexpr int64_t kSmaller = 8;  // times that the last parts are as small as the first: so that all threads end together
constexpr int kPatience = 2000;  // looks for more work before a thread sleeps, 50 to 150 microseconds

inline void pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

struct Loop {
  // Runs parts until none is left.
  void run() {
    for (int64_t first = next; first < count;) {
      const int64_t end = std::min(count, first + std::max(least, (count - first) / parts));
      if (!next.compare_exchange_weak(first, end)) continue;  // first is what the next part starts from now
      body(context, first, end);
      first = next;
    }
  }
  int64_t count, parts, least;
  void (*body)(void *, int64_t, int64_t);
  void *context;
  std::atomic<int64_t> next{0};
};

// Threads that help with one loop at a time.
class Helpers {
 public:
  // Those of the process. They are never taken away, since they may still sleep when it ends.
  static Helpers &get() {
    static Helpers &helpers = *new Helpers(omp_get_max_threads() - 1);
    return helpers;
  }

  void run(Loop &loop) {
    const std::unique_lock owner(owner_, std::try_to_lock);
    if (!owner) return loop.run();  // another loop has them
    {
      const std::lock_guard lock(mutex_);
      loop_ = &loop;
      ++loops_;
    }
    if (sleeping_) wake_.notify_all();
    loop.run();
    {
      const std::lock_guard lock(mutex_);
      loop_ = nullptr;
    }
    for (int look = 0; busy_; look < kPatience ? ++look, pause() : std::this_thread::yield()) {}
  }

 private:
  explicit Helpers(int count) {
    for (int i = 0; i < count; ++i) std::thread([this] { help(); }).detach();
  }

  void help() {
    for (int64_t seen = 0;;) {
      for (int look = 0; look < kPatience && loops_ == seen; ++look) pause();
      std::unique_lock lock(mutex_);
      ++sleeping_;
      wake_.wait(lock, [&] { return loops_ != seen; });
      --sleeping_;
      seen = loops_;
      Loop *loop = loop_;
      if (!loop) continue;
      ++busy_;
      lock.unlock();
      loop->run();
      --busy_;
    }
  }

  std::mutex owner_, mutex_;
  std::condition_variable wake_;
  Loop *loop_ = nullptr;
  std::atomic<int64_t> loops_{0};
  std::atomic<int> busy_{0}, sleeping_{0};
};

// Calls function(first, end) for parts of 0 to count - 1, on all cores.
template <typename Function>
void each_range(int64_t count, Function function) {
  const int64_t threads = omp_get_max_threads();
  if (threads == 1 || count < 2) {
    if (count > 0) function(int64_t{0}, count);
    return;
  }
  Loop loop;
  loop.count = count;
  loop.parts = threads * kParts;
  loop.least = std::max<int64_t>(1, count / (loop.parts * kSmaller));
  loop.context = &function;
  loop.body = [](void *context, int64_t first, int64_t end) { (*static_cast<Function *>(context))(first, end); };
  Helpers::get().run(loop);
}

// Calls function(i) for i from 0 to count - 1, on all cores.
template <typename Function>
void each(int64_t count, Function function) {
  each_range(count, [&](int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) function(i);
  });
}

}  // namespace parallel
