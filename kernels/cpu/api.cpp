// The C ABI: handles, errors, and the choice of the instruction set.
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#if !defined(_WIN32)
#include <unistd.h>
#endif

#include "engine.h"
#include "guard.h"

#ifndef CRN_VERSION
#define CRN_VERSION "unknown"
#endif

namespace crn {

#define CRN_DECLARE(isa) \
  namespace isa {        \
  extern const Ops ops;  \
  }
#ifdef CRN_HAS_AVX512
CRN_DECLARE(avx512)
#endif
#ifdef CRN_HAS_AVX2
CRN_DECLARE(avx2)
#endif
#ifdef CRN_HAS_NEON
CRN_DECLARE(neon)
#endif
#ifdef CRN_HAS_WIDE
CRN_DECLARE(wide)
#endif
CRN_DECLARE(plain)

namespace {

struct Available {
  Available() {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_cpu_init();
#ifdef CRN_HAS_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma"))
      add(avx512::ops);
#endif
#ifdef CRN_HAS_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add(avx2::ops);
#endif
#endif
#if defined(CRN_HAS_NEON) && defined(__linux__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) add(neon::ops);
#elif defined(CRN_HAS_NEON)
    add(neon::ops);  // every other system with this processor has the products of bytes
#endif
    add(plain::ops);
#ifdef CRN_HAS_WIDE
    add(wide::ops);
#endif
  }
  void add(const Ops& ops) {
    all[count++] = &ops;
    names += (names.empty() ? "" : " ") + std::string(ops.name);
  }
  const Ops* all[4];
  int count = 0;
  std::string names;
};

const Available& available() {
  static const Available found;
  return found;
}

}  // namespace

const Ops& find_ops(const char* name) {
  const Available& here = available();
  if (name == nullptr) return *here.all[0];
  for (int i = 0; i < here.count; i++)
    if (std::strcmp(here.all[i]->name, name) == 0) return *here.all[i];
  throw Error(CRN_UNSUPPORTED, "instructions=%.40s: this processor or library has not these, only %s",
              name, here.names.c_str());
}

namespace {

int processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned found = std::thread::hardware_concurrency();
  return found ? (int)found : 1;
}

struct Handle {
  std::shared_ptr<Engine> engine;
#if !defined(_WIN32)
  pid_t process = getpid();
#endif
};

struct Handles {
  std::mutex mutex;
  std::map<crn_engine, Handle> open;
  crn_engine last = 0;
};

Handles& handles() {
  static Handles* all = new Handles;  // never freed: threads may outlive the program's end
  return *all;
}

std::shared_ptr<Engine> find(crn_engine engine) {
  Handles& all = handles();
  std::lock_guard<std::mutex> lock(all.mutex);
  const auto at = all.open.find(engine);
  if (at == all.open.end())
    throw Error(CRN_CLOSED, "engine %llu is closed, or was never opened",
                (unsigned long long)engine);
#if !defined(_WIN32)
  if (at->second.process != getpid())
    throw Error(CRN_BAD_ARGUMENT,
                "the engine was opened before this process was forked; open another here");
#endif
  return at->second.engine;
}

}  // namespace
}  // namespace crn

using namespace crn;

extern "C" {

CRN_API uint32_t crn_abi_version(void) { return CRN_ABI_VERSION; }

CRN_API const char* crn_version(void) { return CRN_VERSION; }

CRN_API const char* crn_instructions(void) { return available().names.c_str(); }

CRN_API int crn_is_fast(const char* instructions, uint32_t precision) {
  for (int i = 0; i < available().count; i++)
    if (instructions != nullptr && std::strcmp(available().all[i]->name, instructions) == 0)
      return precision == CRN_INT8 && available().all[i]->fast_int8;
  return 0;
}

CRN_API void crn_defaults(crn_options* options) {
  *options = {sizeof(crn_options), CRN_FP32, processors(), nullptr, nullptr};
}

CRN_API crn_status crn_open(const void* checkpoint, size_t size, const crn_options* options,
                            crn_engine* engine, char* error, size_t error_size) {
  if (engine != nullptr) *engine = 0;
  return guarded(error, error_size, [&] {
    if (engine == nullptr || checkpoint == nullptr)
      throw Error(CRN_BAD_ARGUMENT, "%s is NULL", engine == nullptr ? "engine" : "checkpoint");
    crn_options wanted;
    crn_defaults(&wanted);
    if (options != nullptr) {
      if (options->size != sizeof(crn_options))
        throw Error(CRN_BAD_ARGUMENT,
                    "options.size=%u, this library's is %zu: fill options with crn_defaults",
                    options->size, sizeof(crn_options));
      wanted = *options;
    }
    if (wanted.precision > CRN_INT8)
      throw Error(CRN_BAD_ARGUMENT, "precision=%u: give 0 (fp32) or 1 (int8)", wanted.precision);
    const int most = processors();
    if (wanted.threads < 1 || wanted.threads > most)
      throw Error(CRN_BAD_ARGUMENT, "threads=%d: give 1 to %d, the processors of this process",
                  wanted.threads, most);
    const Ops& ops = find_ops(wanted.instructions);
    Checkpoint read(checkpoint, size);
    if (wanted.preset != nullptr && read.config().preset != wanted.preset)
      throw Error(CRN_BAD_CHECKPOINT, "checkpoint: of preset %s, not %.31s",
                  read.config().preset.c_str(), wanted.preset);
    auto made =
        std::make_shared<Engine>(read, ops, wanted.precision == CRN_INT8, wanted.threads);
    Handles& all = handles();
    std::lock_guard<std::mutex> lock(all.mutex);
    all.open[++all.last].engine = std::move(made);
    *engine = all.last;
  });
}

CRN_API crn_status crn_describe(crn_engine engine, crn_info* info, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    if (info == nullptr || info->size != sizeof(crn_info))
      throw Error(CRN_BAD_ARGUMENT, "info is NULL or info.size is not that of crn_info");
    const std::shared_ptr<Engine> found = find(engine);
    const Network& network = found->network();
    *info = {};
    info->size = sizeof(crn_info);
    tell(network.config.preset.c_str(), info->preset, sizeof info->preset);
    tell(network.ops.name, info->instructions, sizeof info->instructions);
    info->parameters = network.parameters;
    info->novelty_threshold = network.head.threshold;
    info->threads = found->threads();
  });
}

CRN_API crn_status crn_score(crn_engine engine, const float* hu, size_t n, float* score,
                             float* probs, float* quality_map, float* novelty, char* error,
                             size_t error_size) {
  return guarded(error, error_size, [&] {
    const std::shared_ptr<Engine> found = find(engine);
    if (n == 0) throw Error(CRN_BAD_ARGUMENT, "n=0: give one slice or more");
    if (hu == nullptr || score == nullptr)
      throw Error(CRN_BAD_ARGUMENT, "%s is NULL", hu == nullptr ? "hu" : "score");
    found->score(hu, n, score, probs, quality_map, novelty);
  });
}

CRN_API void crn_close(crn_engine engine) {
  Handles& all = handles();
  std::shared_ptr<Engine> freed;
  std::lock_guard<std::mutex> lock(all.mutex);
  const auto at = all.open.find(engine);
  if (at == all.open.end()) return;
#if !defined(_WIN32)
  if (at->second.process != getpid()) {
    new std::shared_ptr<Engine>(at->second.engine);  // its threads are in another process
    all.open.erase(at);
    return;
  }
#endif
  freed = std::move(at->second.engine);
  all.open.erase(at);
}

}  // extern "C"
