// Anatomy of a slice on its 128 x 128 cells. A row of cells is a number of 128 bits, so that an
// operation on masks takes a few instructions a row.
// clinreadnet/data/region.py says what the measures mean, and decides by them.
#include <algorithm>
#include <array>
#include <cmath>

#include "guard.h"
#include "include/clinreadnet_ops.h"

namespace crn {
namespace {

__extension__ typedef unsigned __int128 Row;
using Mask = std::array<Row, kCells>;

constexpr int kCut = 2;
constexpr float kTissue = -400, kGas = -960, kLung = -500, kBone = 250, kSpine = 180, kDense = 330;
constexpr float kFatLow = -150, kFatHigh = -30;
constexpr double kLeastBody = .005;

int count(Row row) {
  return __builtin_popcountll((uint64_t)row) + __builtin_popcountll((uint64_t)(row >> 64));
}

int count(const Mask& mask) {
  int total = 0;
  for (Row row : mask) total += count(row);
  return total;
}

int first(Row row) {
  return (uint64_t)row ? __builtin_ctzll((uint64_t)row) : 64 + __builtin_ctzll((uint64_t)(row >> 64));
}

int last(Row row) {
  const uint64_t high = (uint64_t)(row >> 64);
  return high ? 127 - __builtin_clzll(high) : 63 - __builtin_clzll((uint64_t)row);
}

// The cells of a slice, and what compares them.
struct Cells {
  const Ops& ops;
  std::array<float, kCells * kCells> values;

  explicit Cells(const Ops& ops) : ops(ops) {}  // counts alone write no values

  Mask between(float low, float high) const {
    uint64_t words[2 * kCells];
    ops.between(values.data(), low, high, words);
    Mask mask;
    for (int i = 0; i < kCells; i++) mask[i] = (Row)words[2 * i + 1] << 64 | words[2 * i];
    return mask;
  }
  Mask above(float low) const { return between(low, HUGE_VALF); }
};

Mask both(const Mask& a, const Mask& b) {
  Mask out;
  for (int i = 0; i < kCells; i++) out[i] = a[i] & b[i];
  return out;
}

Mask inverse(const Mask& a) {
  Mask out;
  for (int i = 0; i < kCells; i++) out[i] = ~a[i];
  return out;
}

// The runs of `free` that hold a bit of `seeds`.
Row fill_row(Row seeds, Row free) {
  seeds &= free;
  if (!seeds) return 0;
  Row up = free, down = free;
  for (int step = 1; step < kCells; step *= 2) {
    seeds |= (up & seeds << step) | (down & seeds >> step);
    up &= up << step;
    down &= down >> step;
  }
  return seeds;
}

// The cells of `free` that are connected by sides with those of `seeds`.
Mask fill(Mask seeds, const Mask& free) {
  for (int i = 0; i < kCells; i++) seeds[i] = fill_row(seeds[i], free[i]);
  for (bool changed = true; changed;) {
    changed = false;
    for (int pass = 0; pass < 2; pass++)
      for (int step = 1; step < kCells; step++) {
        const int i = pass ? kCells - 1 - step : step, from = pass ? i + 1 : i - 1;
        if (!(seeds[from] & free[i] & ~seeds[i])) continue;
        seeds[i] = fill_row(seeds[i] | seeds[from], free[i]);
        changed = true;
      }
  }
  return seeds;
}

// The cells that are connected with the border of the frame without crossing `wall`.
Mask open_air(const Mask& wall) {
  Mask seeds;
  seeds.fill((Row)1 << (kCells - 1) | 1);
  seeds.front() = seeds.back() = ~(Row)0;
  return fill(seeds, inverse(wall));
}

// Dilates by kCut cells along both axes; `border` is the value outside the frame.
Mask spread(const Mask& mask, bool border) {
  Mask across, out;
  const Row left = border ? ((Row)1 << kCut) - 1 : 0, right = left << (kCells - kCut);
  for (int i = 0; i < kCells; i++) {
    Row row = mask[i] | left | right;
    for (int step = 1; step <= kCut; step++) row |= mask[i] << step | mask[i] >> step;
    across[i] = row;
  }
  for (int i = 0; i < kCells; i++) {
    Row row = border && (i < kCut || i >= kCells - kCut) ? ~(Row)0 : 0;
    for (int k = std::max(i - kCut, 0); k <= std::min(i + kCut, kCells - 1); k++) row |= across[k];
    out[i] = row;
  }
  return out;
}

// Removes what is thinner than 2 * kCut + 1 cells.
Mask opened(const Mask& mask) {
  return both(spread(inverse(spread(inverse(mask), true)), false), mask);
}

struct Bodies {
  Mask largest;
  int area = 0;                   // of the largest
  int tissue = 0, second = 0;     // of the parts with the most tissue
};

Bodies find_bodies(const Mask& tissue) {
  Mask left = opened(inverse(open_air(tissue)));
  Bodies found;
  for (int i = 0; i < kCells; i++)
    while (left[i]) {
      Mask seeds{};
      seeds[i] = (Row)1 << first(left[i]);
      const Mask part = fill(seeds, left);
      const int area = count(part), weight = count(both(part, tissue));
      for (int k = 0; k < kCells; k++) left[k] &= ~part[k];
      if (area > found.area) {
        found.area = area;
        found.largest = part;
      }
      if (weight > found.tissue) {
        found.second = found.tissue;
        found.tissue = weight;
      } else {
        found.second = std::max(found.second, weight);
      }
    }
  return found;
}

template <class Test>
Row columns_where(Test test) {
  Row columns = 0;
  for (int j = 0; j < kCells; j++) columns |= (Row)(test(j) ? 1 : 0) << j;
  return columns;
}

void measure(const Cells& cells, crn_survey_result& out) {
  const Mask tissue = cells.above(kTissue);
  const Bodies bodies = find_bodies(tissue);
  if (bodies.area == 0 || bodies.area < kLeastBody * kCells * kCells) return;
  const Mask& body = bodies.largest;
  const double area = bodies.area;
  int top = kCells, bottom = 0, border = count(body.front()) + count(body.back());
  Row any = 0;
  double positions = 0;
  for (int i = 0; i < kCells; i++) {
    if (!body[i]) continue;
    top = std::min(top, i);
    bottom = i;
    any |= body[i];
    border += (int)(body[i] & 1) + (int)(body[i] >> (kCells - 1));
    for (Row row = body[i]; row; row &= row - 1) positions += first(row);
  }
  const double width = last(any) - first(any) + 1, height = bottom - top + 1;
  const double centre = (first(any) + last(any)) / 2., mean = (positions / area - centre) / width;
  const auto across = [&](int j) { return (j - centre) / width; };
  const Row middle = columns_where([&](int j) { return std::abs(across(j) - mean) < .1; });
  const Row sides = columns_where([&](int j) { return std::abs(across(j) - mean) > .3; });

  const auto share = [&](const Mask& mask, Row columns = ~(Row)0) {
    int cells_in = 0;
    for (int i = 0; i < kCells; i++) cells_in += count(mask[i] & body[i] & columns);
    return cells_in / area;
  };
  const Mask dark = cells.between(-HUGE_VALF, kLung);
  double beside[2];
  for (int side = 0; side < 2; side++) {
    const Row columns = columns_where([&](int j) {
      const double x = side ? across(j) : -across(j);
      return x > .15 && x < .35;
    });
    int lung = 0, all = 0;
    for (int i = 0; i < kCells; i++)
      if (std::abs((i - (top + bottom) / 2.) / height) < .25) {
        lung += count(dark[i] & columns);
        all += count(columns);
      }
    beside[side] = (double)lung / all;
  }
  const Mask gas = cells.above(kGas);
  const Mask bone = both(cells.above(kBone), body);

  out.area = bodies.area;
  out.border = border;
  out.second = (double)bodies.second / bodies.tissue;
  out.width = 0.78539816339744830962 * width * width / area;
  out.fat = share(cells.between(kFatLow, kFatHigh));
  out.lung = share(both(dark, gas)) / std::max(1 - out.fat, 1e-6);
  out.both_lungs = std::min(beside[0], beside[1]);
  out.bone = share(bone);
  out.side_bone = share(bone, sides);
  out.spine = share(cells.above(kSpine), middle);
  out.dense_bone = share(cells.above(kDense));
  out.enclosed = share(both(inverse(open_air(bone)), inverse(bone)));
}

}  // namespace
}  // namespace crn

using namespace crn;

extern "C" CRN_API crn_status crn_survey(const void* hu, uint32_t type, const char* instructions,
                                         uint32_t many, uint32_t anatomy,
                                         crn_survey_result* result, char* error, size_t error_size) {
  return guarded(error, error_size, [&] {
    if (hu == nullptr || result == nullptr || result->size != sizeof(crn_survey_result))
      throw Error(CRN_BAD_ARGUMENT, "hu or result is NULL, or result.size is another");
    if (type > CRN_INT16) throw Error(CRN_BAD_ARGUMENT, "type=%u: give 0 (float) or 1 (int16)", type);
    static_assert(kCells == 128, "a row is a number of 128 bits");
    Cells cells(find_ops(instructions));
    Pixels pixels;
    cells.ops.survey[type]({hu, (int)many, &pixels, anatomy ? cells.values.data() : nullptr});
    *result = {};
    result->size = sizeof(crn_survey_result);
    result->finite = pixels.finite;
    if (!pixels.finite) return;
    result->low = pixels.low;
    result->high = pixels.high;
    result->levels = (uint32_t)pixels.levels;
    result->soft = (uint32_t)pixels.soft;
    result->light = (uint32_t)pixels.light;
    result->dense = (uint32_t)pixels.dense;
    if (anatomy) measure(cells, *result);
  });
}
