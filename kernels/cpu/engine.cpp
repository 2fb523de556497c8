#include "engine.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace crn {
namespace {

constexpr int kTiles = CRN_MAP_SIDE * CRN_MAP_SIDE;

// Slices at a time: one fits in the caches; many threads find too few windows in the last stage of one.
int together(int threads) { return std::clamp(threads / 2, 1, 8); }

size_t activation_bytes(const Network& network, int slices) {
  size_t floats = 0;
  for (const Stage& stage : network.stages) floats += (size_t)stage.side * stage.side * stage.c;
  floats += (size_t)kTiles * (2 * network.stem.c + network.head.c + network.head.vote.padded);
  return 4 * floats * slices;
}

}  // namespace

Engine::Workspace::Workspace(const Network& network, int slices)
    : slices(slices), caller(network.scratch), activations(activation_bytes(network, slices)) {
  float* at = (float*)activations.scratch.memory;
  for (int s = 0; s < 4; s++) {
    tokens[s] = at;
    at += (size_t)network.stages[s].side * network.stages[s].side * network.stages[s].c * slices;
  }
  statistics = at;
  at += (size_t)kTiles * 2 * network.stem.c * slices;
  normalised = at;
  at += (size_t)kTiles * network.head.c * slices;
  votes = at;
}

Engine::Engine(Checkpoint& checkpoint, const Ops& ops, bool bytes, int threads)
    : network_(checkpoint, ops, bytes), pool_(threads, network_.scratch) {
  give_back(borrow());  // the first call needs no memory more
}

std::unique_ptr<Engine::Workspace> Engine::borrow() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Workspace> found = std::move(idle_.back());
      idle_.pop_back();
      return found;
    }
  }
  return std::make_unique<Workspace>(network_, together(pool_.threads()));
}

void Engine::give_back(std::unique_ptr<Workspace> used) {
  std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back(std::move(used));
}

void Engine::score(const float* hu, size_t n, float* score, float* probs, float* map,
                   float* novelty) {
  const size_t pixels = (size_t)CRN_SIZE * CRN_SIZE;
  for (size_t i = 0; i < n; i++) {
    const float* slice = hu + i * pixels;
    int bad = 0;
    for (size_t p = 0; p < pixels; p++) bad |= slice[p] != slice[p];
    if (bad) throw Error(CRN_BAD_ARGUMENT, "slice %zu holds NaN", i);
  }
  std::unique_ptr<Workspace> work = borrow();
  for (size_t at = 0; at < n; at += work->slices) {
    const int m = (int)std::min<size_t>(work->slices, n - at);
    run(*work, hu + at * pixels, m, score + at, probs ? probs + at * CRN_GRADES : nullptr,
        map ? map + at * kTiles : nullptr, novelty ? novelty + at : nullptr);
  }
  give_back(std::move(work));
}

void Engine::run(Workspace& work, const float* hu, int n, float* score, float* probs, float* map,
                 float* novelty) {
  const Ops& ops = network_.ops;
  const bool bytes = network_.bytes;
  Scratch& own = work.caller.scratch;
  StemArgs stem = network_.stem;
  stem.hu = hu;
  stem.tokens = work.tokens[0];
  stem.statistics = work.statistics;
  pool_.loop((int64_t)n * (CRN_SIZE / 32), own, [&](int64_t from, int64_t to, Scratch& scratch) {
    ops.stem(stem, from, to, scratch);
  });
  for (int s = 0; s < 4; s++) {
    const Stage& stage = network_.stages[s];
    const int64_t windows = (int64_t)n * (stage.side / kWindow) * (stage.side / kWindow);
    if (s > 0) {
      MergeArgs merge = stage.merge;
      merge.x = work.tokens[s - 1];
      merge.out = work.tokens[s];
      merge.tokens = (int64_t)n * stage.side * stage.side;
      pool_.loop(windows, own, [&](int64_t from, int64_t to, Scratch& scratch) {
        ops.merge[stage.merges_bytes](merge, from, to, scratch);
      });
    }
    for (BlockArgs block : stage.blocks) {
      block.x = work.tokens[s];
      pool_.loop(windows, own, [&](int64_t from, int64_t to, Scratch& scratch) {
        ops.block[bytes](block, from, to, scratch);
      });
    }
  }
  HeadArgs head;
  head.x = work.tokens[3];
  head.normalised = work.normalised;
  head.votes = work.votes;
  head.c = network_.head.c;
  head.tokens = (int64_t)n * kTiles;
  head.vote = network_.head.vote;
  pool_.loop(n, own, [&](int64_t from, int64_t to, Scratch& scratch) {
    const int64_t parts = kTiles / kTokens;
    ops.head(head, from * parts, to * parts, scratch);
    for (int64_t i = from; i < to; i++) {
      float own_probs[CRN_GRADES], own_map[kTiles];
      network_.head.judge(work.normalised + i * kTiles * head.c,
                          work.votes + i * kTiles * head.vote.padded, kTiles, score + i,
                          probs ? probs + i * CRN_GRADES : own_probs, map ? map + i * kTiles : own_map);
      if (novelty)
        novelty[i] = network_.head.novelty(
            work.statistics + i * kTiles * 2 * network_.stem.c, kTiles);
    }
  });
}

}  // namespace crn
