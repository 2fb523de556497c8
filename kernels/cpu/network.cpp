#include "network.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "error.h"

namespace crn {
namespace {

constexpr double kLog2e = 1.4426950408889634074;
constexpr int kGrades = CRN_GRADES;

size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

std::vector<double> softmax(const float* logits, int n, double scale = 1) {
  std::vector<double> found(n);
  double most = logits[0], total = 0;
  for (int i = 1; i < n; i++) most = std::max(most, (double)logits[i]);
  for (int i = 0; i < n; i++) total += found[i] = std::exp((logits[i] - most) * scale);
  for (double& one : found) one /= total;
  return found;
}

// Adds weights [n, k] times LayerNorm's bias [k] to bias [n]. Four sums at a time: the additions of one
// wait for each other.
void fold(const float* weights, int n, int k, const float* norm_bias, float* bias) {
  for (int i = 0; i < n; i += 4) {
    const float* rows[4];
    double totals[4];
    for (int r = 0; r < 4; r++) {
      const int row = std::min(i + r, n - 1);
      rows[r] = weights + (size_t)row * k;
      totals[r] = bias[row];
    }
    for (int j = 0; j < k; j++)
      for (int r = 0; r < 4; r++) totals[r] += (double)rows[r][j] * norm_bias[j];
    for (int r = 0; r < 4 && i + r < n; r++) bias[i + r] = (float)totals[r];
  }
}

}  // namespace

void Store::Free::operator()(void* p) const { operator delete(p, std::align_val_t(64)); }

void* Store::allocate(size_t size) {
  void* p = operator new(size, std::align_val_t(64));
  kept_.emplace_back(p);
  return p;
}

const float* Store::keep(std::vector<float> values) {
  float* to = (float*)allocate(padded(4 * std::max<size_t>(values.size(), 1)));
  std::copy(values.begin(), values.end(), to);
  return to;
}

Linear Store::linear(const Ops& ops, bool bytes, int n, int k, std::vector<float> weights,
                     std::vector<float> bias, const std::vector<float>& norm_weight,
                     const std::vector<float>& norm_bias) {
  Linear found;
  const int columns = ops.columns;
  found.n = n;
  found.k = k;
  found.padded = (n + columns - 1) / columns * columns;
  bias.resize(found.padded, 0.f);
  if (!norm_bias.empty()) fold(weights.data(), n, k, norm_bias.data(), bias.data());
  if (!norm_weight.empty())
    for (int i = 0; i < n; i++)
      for (int j = 0; j < k; j++) weights[(size_t)i * k + j] *= norm_weight[j];
  found.bias = keep(std::move(bias));
  if (!bytes) {
    float* to = (float*)allocate(padded(4 * (size_t)found.padded * k));
    for (int p = 0; p < found.padded; p += columns)
      for (int first = 0; first < k; first += 16)  // what is written stays in the cache
        for (int c = 0; c < columns; c++) {
          float* at = to + (size_t)p * k + (size_t)first * columns + c;
          const float* from = weights.data() + (size_t)(p + c) * k + first;
          const int run = std::min(16, k - first);
          for (int j = 0; j < run; j++) at[(size_t)j * columns] = p + c < n ? from[j] : 0.f;
        }
    found.weights = to;
    return found;
  }
  std::vector<float> scale(found.padded, 0.f), totals(found.padded, 0.f);
  const float levels = (float)ops.weights;
  int8_t* to = (int8_t*)allocate(padded((size_t)found.padded * k));
  std::memset(to, 0, padded((size_t)found.padded * k));
  std::vector<int8_t> row(k);
  for (int i = 0; i < n; i++) {
    const float* from = weights.data() + (size_t)i * k;
    int32_t bits = 0;  // of the largest magnitude
    for (int j = 0; j < k; j++) {
      int32_t one;
      std::memcpy(&one, from + j, 4);
      bits = std::max(bits, one & 0x7fffffff);
    }
    float most;
    std::memcpy(&most, &bits, 4);
    most = std::max(most, 1e-20f);
    const float inverse = levels / most;
    int total = 0;
    for (int j = 0; j < k; j++) {
      const float v = from[j] * inverse;
      const int q = (int)(v + (v < 0 ? -.5f : .5f));
      row[j] = (int8_t)q;
      total += q;
    }
    int8_t* at = to + (size_t)(i / columns) * columns * k + (size_t)(i % columns) * 4;
    for (int j = 0; j < k; j += 4, at += 4 * (size_t)columns) std::memcpy(at, &row[j], 4);
    scale[i] = most / levels;
    totals[i] = scale[i] * (float)total;
  }
  found.weights = to;
  found.scale = keep(std::move(scale));
  found.totals = keep(std::move(totals));
  return found;
}

Sharpness sharpen(int heads, int head_dim, const std::vector<float>& table,
                  const std::vector<float>& log_inverse, const std::vector<float>& logits) {
  Sharpness found;
  found.position.resize((size_t)heads * kTokens * kTokens);
  for (int head = 0; head < heads; head++) {
    const double beta = std::exp((double)log_inverse[head]) * kLog2e;
    for (int key = 0; key < kTokens; key++)
      for (int query = 0; query < kTokens; query++) {
        const int row = query / 8 - key / 8 + 7, column = query % 8 - key % 8 + 7;
        found.position[((size_t)head * kTokens + key) * kTokens + query] =
            (float)(beta * table[(size_t)(row * 15 + column) * heads + head]);
      }
    found.sharpness.push_back((float)(beta / std::sqrt((double)head_dim)));
    for (double gate : softmax(logits.data() + head * kOctaves, kOctaves))
      found.gates.push_back((float)gate);
  }
  return found;
}

Linear convolution(Store& store, const Ops& ops, int n, int from, const std::vector<float>& weights,
                   std::vector<float> bias) {
  std::vector<float> turned(weights.size());  // [n, row, column, from]
  for (int i = 0; i < n; i++)
    for (int j = 0; j < from; j++)
      for (int t = 0; t < 9; t++)
        turned[((size_t)i * 9 + t) * from + j] = weights[((size_t)i * from + j) * 9 + t];
  return store.linear(ops, false, n, 9 * from, std::move(turned), std::move(bias));
}

size_t block_scratch(int c, int hidden) {
  const size_t wide = std::max(hidden, 3 * c);
  return 2 * padded(4 * (size_t)kTokens * c) + padded(4 * kTokens * wide) +
         padded(kTokens * wide) + 2 * padded(4 * kTokens);
}
size_t merge_scratch(int c) {
  return padded(16 * (size_t)kTokens * c) + padded(4 * (size_t)kTokens * c) +
         2 * padded(4 * kTokens);
}
size_t stem_scratch(int width, int c) {
  const size_t pad = (c / 2 + 15) / 16 * 16;
  return 3 * padded(4 * ((size_t)width + 32)) + 5 * padded(4 * (16 + 4 * (size_t)width)) +
         5 * padded(4 * (pad + (size_t)(c / 2) * (width / 2) + 16));
}

size_t head_scratch(int c) { return padded(4 * (size_t)kTokens * c); }

Network::Network(Checkpoint& checkpoint, const Ops& ops, bool bytes)
    : config(checkpoint.config()), ops(ops), bytes(bytes) {
  const auto take = [&](const std::string& name, std::vector<int64_t> shape, bool learned = true,
                        bool any = false) {
    std::vector<float> found = checkpoint.take(name, shape, any);
    if (learned) parameters += found.size();
    return found;
  };
  const int embed = config.embed;
  const auto convolve = [&](const std::string& name, int n, int from) {
    const std::vector<float> weights = take(name + ".weight", {n, from, 3, 3});
    return convolution(store_, ops, n, from, weights, take(name + ".bias", {n}));
  };
  stem.h = stem.w = CRN_SIZE;
  stem.c = embed;
  stem.conv1 = convolve("stem.conv1", embed / 2, 4);
  stem.conv2 = convolve("stem.embed", embed, embed / 2);
  stem.norm_weight = store_.keep(take("stem.norm.weight", {embed}));
  stem.norm_bias = store_.keep(take("stem.norm.bias", {embed}));
  scratch = stem_scratch(CRN_SIZE, embed);
  int c = embed, side = CRN_SIZE / 4;
  for (int s = 0; s < 4; s++) {
    Stage stage;
    const std::string prefix = "stages." + std::to_string(s) + ".";
    int index = 0;
    if (s > 0) {
      const std::string name = prefix + "0.";
      const std::vector<float> weight = take(name + "norm.weight", {4 * c});
      const std::vector<float> bias = take(name + "norm.bias", {4 * c});
      stage.merge.h = stage.merge.w = side;
      stage.merge.c = c;
      // In 8 bits the weights of the first alone would nearly double the error of the network.
      stage.merges_bytes = bytes && s > 1;
      stage.merge.reduction =
          store_.linear(ops, stage.merges_bytes, 2 * c, 4 * c,
                        take(name + "reduction.weight", {2 * c, 4 * c}), {}, weight, bias);
      scratch = std::max(scratch, merge_scratch(c));
      c *= 2;
      side /= 2;
      index = 1;
    }
    stage.c = c;
    stage.side = side;
    const int heads = config.heads[s], hidden = config.mlp_ratio * c;
    for (int b = 0; b < config.depths[s]; b++) {
      const std::string name = prefix + std::to_string(index + b) + ".", a = name + "attention.";
      BlockArgs block;
      block.h = block.w = side;
      block.c = c;
      block.heads = heads;
      block.shift = b % 2 ? kWindow / 2 : 0;
      const auto linear = [&](const std::string& layer, int n, int k, const char* norm = nullptr) {
        std::vector<float> weight, bias;
        if (norm) {
          weight = take(name + norm + ".weight", {k});
          bias = take(name + norm + ".bias", {k});
        }
        return store_.linear(ops, bytes, n, k, take(layer + ".weight", {n, k}),
                             take(layer + ".bias", {n}), weight, bias);
      };
      block.qkv = linear(a + "qkv", 3 * c, c, "norm1");
      block.projection = linear(a + "projection", c, c);
      block.fc1 = linear(name + "mlp.0", hidden, c, "norm2");
      block.fc2 = linear(name + "mlp.2", c, hidden);
      Sharpness sharp =
          sharpen(heads, c / heads, take(a + "bias_table", {225, heads}),
                  take(a + "log_inv_temperature", {heads}), take(a + "gate_logits", {heads, 3}));
      block.position = store_.keep(std::move(sharp.position));
      block.sharpness = store_.keep(std::move(sharp.sharpness));
      block.gates = store_.keep(std::move(sharp.gates));
      stage.blocks.push_back(block);
      scratch = std::max(scratch, block_scratch(c, hidden));
    }
    stages.push_back(std::move(stage));
  }
  head.c = c;
  head.image = config.image;
  head.norm_weight = take("head.norm.weight", {c});
  head.norm_bias = take("head.norm.bias", {c});
  std::vector<float> votes = take("head.vote.weight", {kGrades, c});
  std::vector<float> bias = take("head.vote.bias", {kGrades});
  const std::vector<float> weight = take("head.token_weight.weight", {1, c});
  votes.insert(votes.end(), weight.begin(), weight.end());
  bias.push_back(take("head.token_weight.bias", {1})[0]);
  votes.resize((size_t)32 * c, 0.f);  // whole vectors
  bias.resize(32, 0.f);
  head.vote = store_.linear(ops, false, 32, c, std::move(votes), std::move(bias), head.norm_weight,
                            head.norm_bias);
  head.first = take("head.image.0.weight", {config.image, c});
  head.first_bias = take("head.image.0.bias", {config.image});
  head.last = take("head.image.2.weight", {kGrades, config.image});
  head.last_bias = take("head.image.2.bias", {kGrades});
  head.gain = take("head.gain", {})[0];
  head.temperature = take("head.temperature", {}, false)[0];
  if (!(head.temperature > 0))
    throw Error(CRN_BAD_CHECKPOINT, "checkpoint: tensor head.temperature is not positive");
  head.shift = take("statistics.shift", {2 * embed}, false);
  head.scale = take("statistics.scale", {2 * embed}, false);
  head.mean = take("novelty.mean", {4 * embed}, false);
  head.whitening = take("novelty.whitening", {4 * embed, 4 * embed}, false);
  head.threshold = take("novelty.threshold", {}, false, true)[0];
  if (!(head.threshold > 0))
    throw Error(CRN_BAD_CHECKPOINT, "checkpoint: tensor novelty.threshold is not positive");
  scratch = std::max(scratch, head_scratch(c));
  checkpoint.check_all_taken();
}

void Head::judge(const float* normalised, const float* votes_of, int tokens, float* score,
                 float* probs, float* map) const {
  const int ld = vote.padded;
  std::vector<float> logits(tokens);
  for (int t = 0; t < tokens; t++) logits[t] = votes_of[(size_t)t * ld + kGrades];
  const std::vector<double> weights = softmax(logits.data(), tokens);
  double mixture[kGrades] = {};
  std::vector<double> pooled(c, 0.0);
  for (int t = 0; t < tokens; t++) {
    const std::vector<double> one = softmax(votes_of + (size_t)t * ld, kGrades);
    double mean = 0;
    for (int g = 0; g < kGrades; g++) {
      mean += one[g] * (g * .2);
      mixture[g] += weights[t] * one[g];
    }
    map[t] = (float)mean;
    for (int i = 0; i < c; i++) pooled[i] += weights[t] * normalised[(size_t)t * c + i];
  }
  for (int i = 0; i < c; i++) pooled[i] = pooled[i] * norm_weight[i] + norm_bias[i];
  std::vector<double> hidden(image);
  for (int j = 0; j < image; j++) {
    double x = first_bias[j];
    for (int i = 0; i < c; i++) x += pooled[i] * first[(size_t)j * c + i];
    hidden[j] = x * .5 * std::erfc(-x * 0.70710678118654752440);
  }
  float found[kGrades];
  for (int g = 0; g < kGrades; g++) {
    double x = last_bias[g];
    for (int j = 0; j < image; j++) x += hidden[j] * last[(size_t)g * image + j];
    found[g] = (float)(x + gain * std::log(mixture[g] + 1e-4));
  }
  double mean = 0;
  const std::vector<double> all = softmax(found, kGrades, 1 / (double)temperature);
  for (int g = 0; g < kGrades; g++) {
    mean += all[g] * (g * .2);
    probs[g] = (float)all[g];
  }
  *score = (float)mean;
}

float Head::novelty(const float* statistics, int tiles) const {
  const int n = (int)shift.size();
  std::vector<double> far(2 * n, 0.0);
  for (int i = 0; i < n; i++) {
    double total = 0, squares = 0;
    for (int t = 0; t < tiles; t++) total += ((double)statistics[(size_t)t * n + i] - shift[i]) * scale[i];
    const double usual = total / tiles;
    for (int t = 0; t < tiles; t++) {
      const double d = ((double)statistics[(size_t)t * n + i] - shift[i]) * scale[i] - usual;
      squares += d * d;
    }
    far[i] = usual - mean[i];
    far[n + i] = std::sqrt(squares / tiles + 1e-6) - mean[n + i];
  }
  std::vector<double> turned(2 * n, 0.0);
  for (int i = 0; i < 2 * n; i++)
    for (int j = 0; j < 2 * n; j++) turned[j] += far[i] * whitening[(size_t)i * 2 * n + j];
  double total = 0;
  for (double one : turned) total += one * one;
  return (float)std::sqrt(total);
}

}  // namespace crn
