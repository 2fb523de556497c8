// Threads of an engine. Any number of callers can submit loops at the same time; each also works on
// its own loop.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "ops.h"

namespace crn {

class Pool {
 public:
  // threads: of a loop, the caller among them. scratch: bytes that each thread gets.
  Pool(int threads, size_t scratch);
  ~Pool();
  int threads() const { return (int)workers_.size() + 1; }

  // Memory of a thread, aligned to 64 bytes.
  class Memory {
   public:
    explicit Memory(size_t size);
    ~Memory();
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    Scratch scratch;
  };

  // Runs task(from, to, scratch) for parts of 0 ... count, each number once, and returns when all are
  // done. `own` is the caller's memory.
  template <class Task>
  void loop(int64_t count, Scratch& own, Task task) {
    Job job;
    job.count = count;
    job.task = &task;
    job.run = [](void* task, int64_t from, int64_t to, Scratch& scratch) {
      (*(Task*)task)(from, to, scratch);
    };
    run(job, own);
  }

 private:
  struct Job {
    int64_t count = 0;
    void* task = nullptr;
    void (*run)(void*, int64_t, int64_t, Scratch&) = nullptr;
    std::atomic<int64_t> next{0};
    int helpers = 0;  // workers inside, guarded by mutex_
  };
  void run(Job& job, Scratch& own);
  static void drain(Job& job, Scratch& scratch);
  void work(Scratch& scratch);

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<Job*> jobs_;  // guarded by mutex_
  std::atomic<uint64_t> posted_{0};
  bool ending_ = false;
  std::vector<std::thread> workers_;
  std::vector<std::unique_ptr<Memory>> memories_;
};

}  // namespace crn
