// An instruction set: its widths and the ops of the network. isa.cpp defines one for each.
#pragma once
#include <cstddef>
#include <cstdint>

namespace crn {

// out = x W^T + b. LayerNorm's weight and bias are folded into weights and bias.
// float32: weights [padded / columns][k][columns].
// 8 bits: weights [padded / columns][k / 4][columns][4]; out = scale * (step * sum + least * total)
//   + bias, where a token is step * q + least.
struct Linear {
  int k = 0, n = 0, padded = 0;
  const void* weights = nullptr;
  const float* bias = nullptr;    // [padded]
  const float* scale = nullptr;   // [padded], 8 bits: of a column
  const float* totals = nullptr;  // [padded], 8 bits: scale times the sum of the column
};

// Memory of one thread for the rows of one task.
struct Scratch {
  char* memory = nullptr;
  size_t size = 0;
};

constexpr int kWindow = 8, kTokens = 64, kOctaves = 3;
constexpr float kEps = 1e-5f;

// x + attention(norm(x)), then x + mlp(norm(x)), in place. Tasks: slices * h / 8 * w / 8 windows.
struct BlockArgs {
  float* x = nullptr;  // [slices, h, w, c]
  int h = 0, w = 0, c = 0, heads = 0, shift = 0;
  bool attends = true, mixes = true;
  Linear qkv, projection, fc1, fc2;
  const float* position = nullptr;  // [heads, 64 keys, 64 queries], beta * log2(e) * bias
  const float* sharpness = nullptr; // [heads], beta * log2(e) / sqrt(head dim)
  const float* gates = nullptr;     // [heads, 3]
};

// Joins 2 x 2 tokens. Tasks: 64 tokens of the output, of slices * h / 2 * w / 2.
struct MergeArgs {
  const float* x = nullptr;  // [slices, h, w, c]
  float* out = nullptr;      // [slices, h / 2, w / 2, n]
  int h = 0, w = 0, c = 0;
  int64_t tokens = 0;        // of the output, all slices
  Linear reduction;
};

// Hounsfield units to tokens and the statistics of tiles. Tasks: slices * h / 32 bands.
struct StemArgs {
  const float* hu = nullptr;   // [slices, h, w]
  float* tokens = nullptr;     // [slices, h / 4, w / 4, c]
  float* statistics = nullptr; // [slices, h / 32, w / 32, 2c], mean and log deviation
  int h = 0, w = 0, c = 0;
  Linear conv1, conv2;  // k = 3 rows * 3 columns * channels in
  const float* norm_weight = nullptr;
  const float* norm_bias = nullptr;
};

// Normalised tokens and a linear layer of them. Tasks: 64 tokens.
struct HeadArgs {
  const float* x = nullptr;     // [tokens, c]
  float* normalised = nullptr;  // [tokens, c]
  float* votes = nullptr;       // [tokens, padded]
  int c = 0;
  int64_t tokens = 0;
  Linear vote;
};

constexpr int kSide = 512, kCells = kSide / 4;

// Counts of the pixels of a slice; a value counts as the whole HU that it is cut to.
struct Pixels {
  bool finite = false;  // nothing else is set where false
  float low = 0, high = 0;
  int levels = 0;       // different whole HU, at most SurveyArgs::many
  int soft = 0;         // -300 ... 400 HU
  int light = 0;        // up to -30 HU
  int dense = 0;        // from 700 HU
};

struct SurveyArgs {
  const void* hu = nullptr;  // [512, 512], float or int16_t
  int many = 0;
  Pixels* out = nullptr;
  float* cells = nullptr;    // [128, 128], means of 4 x 4 pixels as the network sees them; may be NULL
};

struct Ops {
  const char* name;
  int width;    // floats of a vector
  int columns;  // of a panel of packed weights
  int weights;  // largest weight in 8 bits
  bool fast_int8;
  void (*block[2])(const BlockArgs&, int64_t first, int64_t last, Scratch&);
  void (*merge[2])(const MergeArgs&, int64_t first, int64_t last, Scratch&);
  void (*stem)(const StemArgs&, int64_t first, int64_t last, Scratch&);
  void (*head)(const HeadArgs&, int64_t first, int64_t last, Scratch&);
  void (*survey[2])(const SurveyArgs&);  // of float, of int16_t
  // Bits of the cells [128, 128] between two values, both excluded: cell i is bit i % 64 of word i / 64.
  void (*between)(const float* cells, float low, float high, uint64_t* words);
  double (*peak[2])(int64_t rounds);  // runs products in registers alone; returns their number
};

}  // namespace crn
