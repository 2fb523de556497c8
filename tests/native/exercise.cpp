// Exercises the C interface without Python, so that sanitizers see the engine alone.
//
//   exercise calls CHECKPOINT INSTRUCTIONS PRECISION CALLERS CALLS THREADS
//   exercise mutate CHECKPOINT COUNT SEED
#include <clinreadnet.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kPixels = (size_t)CRN_SIZE * CRN_SIZE;
constexpr int kSlices = 3;
constexpr int kFloats = 1 + CRN_GRADES + CRN_MAP_SIDE * CRN_MAP_SIDE + 1;  // of a slice's outputs

std::vector<char> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<float> slices() {
  std::mt19937 random(1);
  std::normal_distribution<float> noise(40, 200);
  std::vector<float> hu(kSlices * kPixels);
  for (float& one : hu) one = noise(random);
  return hu;
}

// Slices first ... first + n - 1 -> [n][kFloats].
bool score(crn_engine engine, const float* hu, int first, int n, std::vector<float>& out) {
  std::vector<float> score(n, NAN), probs(n * CRN_GRADES, NAN), novelty(n, NAN);
  std::vector<float> map(n * CRN_MAP_SIDE * CRN_MAP_SIDE, NAN);
  char error[CRN_ERROR_SIZE];
  if (crn_score(engine, hu + first * kPixels, n, score.data(), probs.data(), map.data(),
                novelty.data(), error, sizeof error)) {
    std::fprintf(stderr, "%s\n", error);
    return false;
  }
  out.clear();
  for (int i = 0; i < n; i++) {
    out.push_back(score[i]);
    out.insert(out.end(), &probs[i * CRN_GRADES], &probs[i * CRN_GRADES] + CRN_GRADES);
    out.insert(out.end(), &map[i * 256], &map[i * 256] + 256);
    out.push_back(novelty[i]);
  }
  return true;
}

long resident_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmRSS:", 0) == 0) return std::atol(line.c_str() + 6);
  return 0;
}

int calls(char** argv) {
  const std::vector<char> checkpoint = read(argv[0]);
  const int callers = std::atoi(argv[3]), count = std::atoi(argv[4]);
  crn_options options;
  crn_defaults(&options);
  options.instructions = argv[1];
  options.precision = std::strcmp(argv[2], "int8") == 0 ? CRN_INT8 : CRN_FP32;
  options.threads = std::atoi(argv[5]);
  char error[CRN_ERROR_SIZE];
  crn_engine engine;
  if (crn_open(checkpoint.data(), checkpoint.size(), &options, &engine, error, sizeof error)) {
    std::fprintf(stderr, "%s\n", error);
    return 1;
  }
  const std::vector<float> hu = slices();
  std::vector<float> expected;
  if (!score(engine, hu.data(), 0, kSlices, expected)) return 1;
  for (float one : expected)
    if (!std::isfinite(one)) return 4;
  std::atomic<int> next{0}, wrong{0};
  std::atomic<long> first{0}, last{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < callers; t++)
    threads.emplace_back([&] {
      std::vector<float> found;
      for (int i; (i = next++) < count;) {
        const int from = i % kSlices, n = 1 + i % (kSlices - from);
        if (!score(engine, hu.data(), from, n, found) ||
            std::memcmp(found.data(), &expected[from * kFloats], 4 * found.size()) != 0)
          wrong++;
        if (i == count / 2) first = resident_kib();
        if (i == count - 1) last = resident_kib();
      }
    });
  for (std::thread& thread : threads) thread.join();
  crn_close(engine);
  crn_close(engine);
  std::vector<float> none;
  const bool closed = !score(engine, hu.data(), 0, 1, none);
  std::printf("%d calls, %d wrong, memory %ld to %ld KiB\n", count, wrong.load(), first.load(),
              last.load());
  return wrong || !closed ? 1 : 0;
}

int mutate(char** argv) {
  const std::vector<char> whole = read(argv[0]);
  const int count = std::atoi(argv[1]);
  std::mt19937_64 random(std::strtoull(argv[2], nullptr, 10));
  const auto below = [&](size_t n) { return (size_t)(random() % n); };
  uint64_t header;
  std::memcpy(&header, whole.data(), 8);
  const char* spices[] = {"-1", "0", "9223372036854775807", "18446744073709551616", "1e9", "null",
                          "[", "]", "{", "}", "\"", "\\", "\"F64\"", "\"F32\"", ",", ":", "NaN"};
  std::map<int, int> statuses;
  for (int i = 0; i < count; i++) {
    std::vector<char> bytes = whole;
    for (size_t edits = 1 + below(3); edits > 0; edits--) {
      const size_t text = bytes.size() > 8 + header ? (size_t)header : bytes.size();
      switch (below(7)) {
        case 0: bytes.resize(below(bytes.size() + 1)); break;
        case 1: if (bytes.size() > 8) bytes[below(8)] = (char)random(); break;
        case 2: case 3:  // a character of the header
          if (bytes.size() > 8 + text) bytes[8 + below(text)] = (char)random();
          break;
        case 4: {  // a word in the place of others
          const std::string spice = spices[below(std::size(spices))];
          if (bytes.size() > 8 + text + spice.size())
            std::copy(spice.begin(), spice.end(), bytes.begin() + 8 + below(text));
          break;
        }
        case 5:  // digits
          for (int tries = 0; tries < 50 && bytes.size() > 8 + text; tries++) {
            char& one = bytes[8 + below(text)];
            if (one >= '0' && one <= '9') {
              one = (char)('0' + below(10));
              break;
            }
          }
          break;
        default:  // weights
          if (bytes.size() > 8 + text + 1) bytes[8 + text + below(bytes.size() - 8 - text)] = (char)random();
      }
    }
    crn_engine engine;
    crn_options options;
    char error[CRN_ERROR_SIZE];
    crn_defaults(&options);
    options.threads = 1;
    options.precision = i & 1;
    // Of its exact size, so that a read behind its end is seen.
    char* exact = (char*)std::malloc(bytes.size() + (bytes.empty() ? 1 : 0));
    std::copy(bytes.begin(), bytes.end(), exact);
    const crn_status status =
        crn_open(exact, bytes.size(), &options, &engine, error, sizeof error);
    std::free(exact);
    statuses[status]++;
    const bool said = std::strlen(error) > 0 && std::strchr(error, '\n') == nullptr;
    if (status != CRN_OK && status != CRN_BAD_CHECKPOINT) return std::printf("status %d: %s\n", status, error), 1;
    if ((status != CRN_OK) != said) return std::printf("mutation %d: %s\n", i, error), 1;
    if (status == CRN_OK) crn_close(engine);
  }
  std::printf("%d mutations: %d refused, %d loaded\n", count, statuses[CRN_BAD_CHECKPOINT],
              statuses[CRN_OK]);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 8 && std::strcmp(argv[1], "calls") == 0) return calls(argv + 2);
  if (argc == 5 && std::strcmp(argv[1], "mutate") == 0) return mutate(argv + 2);
  return 2;
}
