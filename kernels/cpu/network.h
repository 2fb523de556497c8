// The weights of a checkpoint, folded, quantised and packed for an instruction set.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "checkpoint.h"
#include "ops.h"

namespace crn {

// Owns the memory that Linear layers and arguments of ops point to.
class Store {
 public:
  const float* keep(std::vector<float> values);
  // A layer of weights [n, k] and bias [n] (may be empty), with LayerNorm's weight and bias [k] folded
  // in where given.
  Linear linear(const Ops& ops, bool bytes, int n, int k, std::vector<float> weights,
                std::vector<float> bias, const std::vector<float>& norm_weight = {},
                const std::vector<float>& norm_bias = {});

 private:
  void* allocate(size_t size);
  struct Free {
    void operator()(void* p) const;
  };
  std::vector<std::unique_ptr<void, Free>> kept_;
};

struct Stage {
  MergeArgs merge;                // without x: the first stage has none
  bool merges_bytes = false;
  std::vector<BlockArgs> blocks;  // without x
  int side = 0, c = 0;
};

// The layers after the last stage, in double precision because they are small.
struct Head {
  int c = 0, image = 0, votes = 0;
  std::vector<float> norm_weight, norm_bias, first, first_bias, last, last_bias;
  float gain = 1, temperature = 1;
  std::vector<float> shift, scale, mean, whitening;
  float threshold = 0;
  Linear vote;

  // normalised [tokens, c], votes [tokens, padded] -> score, probs [21], map [tokens].
  void judge(const float* normalised, const float* votes, int tokens, float* score, float* probs,
             float* map) const;
  // statistics [tiles, 2 * embed] -> novelty.
  float novelty(const float* statistics, int tiles) const;
};

struct Network {
  Network(Checkpoint& checkpoint, const Ops& ops, bool bytes);
  Config config;
  const Ops& ops;
  bool bytes;
  uint64_t parameters = 0;
  StemArgs stem;  // without images
  std::vector<Stage> stages;
  Head head;
  size_t scratch = 0;  // bytes that a task needs

 private:
  Store store_;
};

// The position bias and the temperatures of a block as the ops take them.
struct Sharpness {
  std::vector<float> position, sharpness, gates;
};
Sharpness sharpen(int heads, int head_dim, const std::vector<float>& table,
                  const std::vector<float>& log_inverse, const std::vector<float>& logits);

// A convolution of 3 x 3, weights [n, from, 3, 3], as a layer of 9 * from channels.
Linear convolution(Store& store, const Ops& ops, int n, int from, const std::vector<float>& weights,
                   std::vector<float> bias);

// Bytes of memory for a task of each op.
size_t block_scratch(int c, int hidden);
size_t merge_scratch(int c);
size_t stem_scratch(int width, int c);
size_t head_scratch(int c);

}  // namespace crn
