// Threads of one pass: they start with it and end with it. Knows no model.
#pragma once

#include <immintrin.h>

#include <atomic>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

namespace fairslate {

class Team {
 public:
  explicit Team(int size) : size_(size) {}

  int size() const { return size_; }

  // Runs work(member) for every member at once and waits for all; work must not throw, for others
  // may wait for its member. The team is smaller where the system gives no more threads.
  void run(const std::function<void(int)>& work) {
    std::vector<std::thread> others;
    others.reserve(size_);
    try {
      for (int member = 1; member < size_; ++member)
        others.emplace_back([this, &work, member] {
          complete_.wait(false);
          work(member);
        });
    } catch (const std::exception&) {  // no thread, or no memory for one
      size_ = int(others.size()) + 1;
    }
    complete_.store(true);
    complete_.notify_all();
    work(0);
    for (std::thread& other : others) other.join();
  }

  // Waits until every member is here; called by all of them, within `run`.
  void meet() {
    const int round = round_.load();
    if (waiting_.fetch_add(1) + 1 == size_) {
      waiting_.store(0);
      round_.fetch_add(1);
      round_.notify_all();
      return;
    }
    for (int turn = 0; turn < kSpins && round_.load() == round; ++turn) _mm_pause();
    round_.wait(round);
  }

 private:
  static constexpr int kSpins = 1000;  // some ten microseconds: tiles of a layer end together
  int size_;
  std::atomic<bool> complete_{false};
  std::atomic<int> waiting_{0};
  std::atomic<int> round_{0};
};

}  // namespace fairslate
