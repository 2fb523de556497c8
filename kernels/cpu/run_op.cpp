// Run a single op: include/clinreadnet_ops.h.
#include "include/clinreadnet_ops.h"

#include <cstring>
#include <string>
#include <vector>

#include "guard.h"
#include "network.h"
#include "pool.h"

namespace crn {
namespace {

std::vector<float> copy(const float* from, int64_t n) { return {from, from + n}; }

struct Call {
  const Ops& ops;
  const int64_t* sizes;
  float* const* tensors;
  int64_t first, last, tasks = 0;
  Store store;

  Linear linear(bool bytes, int n, int k, int at, int norm = -1, bool bias = true) {
    std::vector<float> a, b;
    if (norm >= 0) {
      a = copy(tensors[norm], k);
      b = copy(tensors[norm + 1], k);
    }
    return store.linear(ops, bytes, n, k, copy(tensors[at], (int64_t)n * k),
                        bias ? copy(tensors[at + 1], n) : std::vector<float>{}, a, b);
  }
  template <class Run, class Args>
  void run(Run op, const Args& args, int64_t count, size_t scratch) {
    tasks = count;
    const int64_t end = last < 0 ? count : last;
    if (first < 0 || first > end || end > count)
      throw Error(CRN_BAD_ARGUMENT, "tasks %lld to %lld of %lld", (long long)first, (long long)end,
                  (long long)count);
    Pool::Memory memory(scratch);
    std::memset(memory.scratch.memory, 0xff, memory.scratch.size);
    op(args, first, end, memory.scratch);
  }

  void block() {
    BlockArgs args;
    const bool bytes = sizes[0] != 0;
    const int64_t slices = sizes[1];
    args.x = tensors[0];
    args.h = (int)sizes[2];
    args.w = (int)sizes[3];
    const int c = args.c = (int)sizes[4], heads = args.heads = (int)sizes[5];
    const int hidden = (int)sizes[7];
    args.shift = (int)sizes[6];
    args.attends = sizes[8] & 1;
    args.mixes = sizes[8] & 2;
    if (c % 16 || (c != 16 * heads && c != 32 * heads) || hidden % 16 || args.h % kWindow ||
        args.w % kWindow)
      throw Error(CRN_BAD_ARGUMENT, "block: sizes that no network has");
    args.qkv = linear(bytes, 3 * c, c, 3, 1);
    args.projection = linear(bytes, c, c, 5);
    args.fc1 = linear(bytes, hidden, c, 12, 10);
    args.fc2 = linear(bytes, c, hidden, 14);
    Sharpness sharp = sharpen(heads, c / heads, copy(tensors[7], 225 * heads),
                              copy(tensors[8], heads), copy(tensors[9], 3 * heads));
    args.position = store.keep(std::move(sharp.position));
    args.sharpness = store.keep(std::move(sharp.sharpness));
    args.gates = store.keep(std::move(sharp.gates));
    run(ops.block[bytes], args, slices * (args.h / kWindow) * (args.w / kWindow),
        block_scratch(c, hidden));
  }

  void merge() {
    MergeArgs args;
    const bool bytes = sizes[0] != 0;
    args.x = tensors[0];
    args.out = tensors[1];
    args.h = (int)sizes[2];
    args.w = (int)sizes[3];
    const int c = args.c = (int)sizes[4];
    args.tokens = sizes[1] * (args.h / 2) * (args.w / 2);
    args.reduction = linear(bytes, 2 * c, 4 * c, 4, 2, false);
    run(ops.merge[bytes], args, (args.tokens + kTokens - 1) / kTokens, merge_scratch(c));
  }

  void stem() {
    StemArgs args;
    args.hu = tensors[0];
    args.tokens = tensors[1];
    args.statistics = tensors[2];
    args.h = (int)sizes[1];
    args.w = (int)sizes[2];
    const int c = args.c = (int)sizes[3];
    args.conv1 = convolution(store, ops, c / 2, 4, copy(tensors[3], c / 2 * 36),
                             copy(tensors[4], c / 2));
    args.conv2 = convolution(store, ops, c, c / 2, copy(tensors[5], c * (c / 2) * 9),
                             copy(tensors[6], c));
    args.norm_weight = tensors[7];
    args.norm_bias = tensors[8];
    run(ops.stem, args, sizes[0] * (args.h / 32), stem_scratch(args.w, c));
  }

  void head() {
    HeadArgs args;
    args.x = tensors[0];
    args.normalised = tensors[1];
    args.tokens = sizes[0];
    const int c = args.c = (int)sizes[1];
    args.vote = linear(false, 32, c, 5, 3);
    std::vector<float> votes(args.tokens * args.vote.padded);
    args.votes = votes.data();
    run(ops.head, args, (args.tokens + kTokens - 1) / kTokens, head_scratch(c));
    for (int64_t t = 0; t < args.tokens; t++)
      std::memcpy(tensors[2] + t * 32, votes.data() + t * args.vote.padded, 4 * 32);
  }
};

}  // namespace
}  // namespace crn

using namespace crn;

extern "C" CRN_API crn_status crn_run_op(const char* op, const char* instructions,
                                         const int64_t* sizes, float* const* tensors, int64_t first,
                                         int64_t last, int64_t* tasks, char* error,
                                         size_t error_size) {
  return guarded(error, error_size, [&] {
    Call call{find_ops(instructions), sizes, tensors, first, last, 0, {}};
    const std::string name = op;
    if (name == "block") call.block();
    else if (name == "merge") call.merge();
    else if (name == "stem") call.stem();
    else if (name == "head") call.head();
    else if (name == "peak") tensors[0][0] = (float)call.ops.peak[sizes[0] != 0](sizes[1]);
    else throw Error(CRN_BAD_ARGUMENT, "op=%.40s: unknown", op);
    if (tasks != nullptr) *tasks = call.tasks;
  });
}
