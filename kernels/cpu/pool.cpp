#include "pool.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <system_error>

#include "error.h"

namespace crn {
namespace {

// Looks for work before a worker sleeps, and for the last helper before a caller does: loops of one
// slice follow each other within microseconds.
constexpr int kSpins = 2000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

Pool::Memory::Memory(size_t size) {
  size = (size + 63) / 64 * 64;
  scratch.memory = (char*)operator new(size, std::align_val_t(64));
  scratch.size = size;
}

Pool::Memory::~Memory() { operator delete(scratch.memory, std::align_val_t(64)); }

Pool::Pool(int threads, size_t scratch) {
  try {
    for (int i = 1; i < threads; i++) memories_.push_back(std::make_unique<Memory>(scratch));
    for (int i = 1; i < threads; i++)
      workers_.emplace_back([this, i] { work(memories_[i - 1]->scratch); });
  } catch (const std::system_error&) {
    this->~Pool();
    throw Error(CRN_NO_MEMORY, "the system starts no thread more");
  } catch (...) {
    this->~Pool();
    throw;
  }
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  posted_++;
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void Pool::drain(Job& job, Scratch& scratch) {
  for (;;) {
    const int64_t at = job.next.fetch_add(1, std::memory_order_relaxed);
    if (at >= job.count) return;
    job.run(job.task, at, at + 1, scratch);
  }
}

void Pool::run(Job& job, Scratch& own) {
  if (workers_.empty() || job.count < 2) {
    drain(job, own);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(&job);
  }
  posted_++;
  wake_.notify_all();
  drain(job, own);
  std::unique_lock<std::mutex> lock(mutex_);
  jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));  // nobody enters it any more
  for (int i = 0; job.helpers > 0 && i < kSpins; i++) {
    lock.unlock();
    pause();
    lock.lock();
  }
  done_.wait(lock, [&] { return job.helpers == 0; });
}

void Pool::work(Scratch& scratch) {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    if (ending_) return;
    Job* job = nullptr;
    for (Job* one : jobs_)
      if (one->next.load(std::memory_order_relaxed) < one->count) {
        job = one;
        break;
      }
    if (job) {
      job->helpers++;
      lock.unlock();
      drain(*job, scratch);
      lock.lock();
      if (--job->helpers == 0) done_.notify_all();
      continue;
    }
    const uint64_t seen = posted_.load();
    lock.unlock();
    for (int i = 0; posted_.load() == seen && i < kSpins; i++) pause();
    lock.lock();
    wake_.wait(lock, [&] {
      if (ending_) return true;
      return std::any_of(jobs_.begin(), jobs_.end(), [](const Job* one) {
        return one->next.load(std::memory_order_relaxed) < one->count;
      });
    });
  }
}

}  // namespace crn
