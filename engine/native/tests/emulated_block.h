// Runs a block of CUDA threads on the CPU. Each thread is a coroutine that yields where a GPU
// thread waits for others. Include this before the device code, which uses the intrinsics defined
// here.
#pragma once

#include <ucontext.h>

#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

namespace llava_st {

class EmulatedBlock {
 public:
  // Runs body(thread) for each of ``threads``, a multiple of 32. The scheduler resumes the first
  // thread that is ready, or the last one with ``backwards``: a missing barrier gives a wrong
  // result in at least one of the two orders.
  static void run(int threads, bool backwards, std::function<void(int)> body) {
    EmulatedBlock block(threads, std::move(body));
    running_ = &block;
    for (int i = 0; i < threads; ++i) block.prepare(i);
    for (int i = 0; i < threads;) {
      block.thread_ = backwards ? threads - 1 - i : i;
      Thread& thread = block.threads_[block.thread_];
      if (thread.done ||
          (thread.waits_for != nullptr && thread.waits_for->passed == thread.passed)) {
        ++i;
        continue;
      }
      swapcontext(&block.scheduler_, &thread.context);
      i = 0;
    }
    running_ = nullptr;
    for (const Thread& thread : block.threads_) {
      if (!thread.done) throw std::logic_error("deadlock: threads wait at different barriers");
    }
  }

  static EmulatedBlock& running() { return *running_; }

  void sync_block() { wait(all_, static_cast<int>(threads_.size())); }

  // Returns what lane ``from`` of the thread's warp passes. Two alternating slots make one barrier
  // per shuffle suffice: a slot is overwritten only after all lanes have read it.
  float shuffle(float given, int from) {
    const int warp = thread_ / 32 * 32;
    Thread& thread = threads_[thread_];
    thread.turn = 1 - thread.turn;
    thread.given[thread.turn] = given;
    wait(warps_[warp / 32], 32);
    return threads_[warp + from % 32].given[thread.turn];
  }

  int lane() const { return thread_ % 32; }

 private:
  struct Barrier {
    int arrived = 0, passed = 0;
  };
  struct Thread {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(64 << 10);
    float given[2] = {};
    int turn = 0;
    const Barrier* waits_for = nullptr;
    int passed = 0;  // generation of that barrier when the wait began
    bool done = false;
  };

  EmulatedBlock(int threads, std::function<void(int)> body)
      : body_(std::move(body)), threads_(threads), warps_(threads / 32) {}

  void prepare(int index) {
    Thread& thread = threads_[index];
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = &scheduler_;
    makecontext(
        &thread.context,
        [] {
          EmulatedBlock& block = running();
          block.body_(block.thread_);
          block.threads_[block.thread_].done = true;
        },
        0);
  }

  void wait(Barrier& barrier, int all) {
    Thread& thread = threads_[thread_];
    thread.waits_for = &barrier;
    thread.passed = barrier.passed;
    if (++barrier.arrived == all) {
      barrier.arrived = 0;
      ++barrier.passed;
    }
    swapcontext(&thread.context, &scheduler_);
  }

  static inline EmulatedBlock* running_ = nullptr;
  std::function<void(int)> body_;
  std::vector<Thread> threads_;
  std::vector<Barrier> warps_;
  Barrier all_;
  ucontext_t scheduler_{};
  int thread_ = 0;
};

}  // namespace llava_st

inline void __syncthreads() { llava_st::EmulatedBlock::running().sync_block(); }

inline float __shfl_xor_sync(unsigned, float given, int mask) {
  auto& block = llava_st::EmulatedBlock::running();
  return block.shuffle(given, block.lane() ^ mask);
}

inline float __shfl_sync(unsigned, float given, int from) {
  return llava_st::EmulatedBlock::running().shuffle(given, from);
}
