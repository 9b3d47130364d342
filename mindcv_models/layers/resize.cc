// Bilinear enlargement and reduction of float32 maps and its gradient on the CPU, for ops.Custom ("aot").
//
// A map's rows are mixed before its columns, so that only half of the work reads single numbers. A map is the work of
// one thread, so that no sum is split between threads.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"

namespace {

// Result i is between `low[i]` and `high[i]`, whose pixel centres are the nearest ones, the part `share[i]` of the way.
struct Axis {
  Axis(int64_t before, int64_t after) : low(after), high(after), share(after) {
    for (int64_t i = 0; i < after; ++i) {
      const double place = std::max((i + 0.5) * before / after - 0.5, 0.);
      low[i] = std::min(static_cast<int64_t>(place), before - 1);
      high[i] = std::min(low[i] + 1, before - 1);
      share[i] = place - low[i];
    }
  }
  std::vector<int64_t> low, high;
  std::vector<float> share;
};

struct Sizes {
  // Shapes (B, C, h, w) before and (B, C, H, W) after.
  Sizes(const int64_t *before, const int64_t *after)
      : maps(before[0] * before[1]), height(before[2]), width(before[3]), rows(after[2]), columns(after[3]),
        down(height, rows), across(width, columns) {}
  int64_t maps, height, width, rows, columns;
  Axis down, across;
};

void enlarge(const float *map, const Sizes &s, float *row, float *result) {
  for (int64_t y = 0; y < s.rows; ++y, result += s.columns) {
    const float *low = map + s.down.low[y] * s.width, *high = map + s.down.high[y] * s.width;
    const float share = s.down.share[y];
    for (int64_t x = 0; x < s.width; ++x) row[x] = (1 - share) * low[x] + share * high[x];
    for (int64_t x = 0; x < s.columns; ++x)
      result[x] = (1 - s.across.share[x]) * row[s.across.low[x]] + s.across.share[x] * row[s.across.high[x]];
  }
}

// `mixed` has space for the map's rows, as wide as those of the result.
void gather(const float *gradient, const Sizes &s, float *mixed, float *to) {
  std::fill_n(mixed, s.height * s.columns, 0.f);
  for (int64_t y = 0; y < s.rows; ++y, gradient += s.columns) {
    float *low = mixed + s.down.low[y] * s.columns, *high = mixed + s.down.high[y] * s.columns;
    const float share = s.down.share[y];
    for (int64_t x = 0; x < s.columns; ++x) low[x] += (1 - share) * gradient[x];
    for (int64_t x = 0; x < s.columns; ++x) high[x] += share * gradient[x];
  }
  std::fill_n(to, s.height * s.width, 0.f);
  for (int64_t y = 0; y < s.height; ++y, to += s.width, mixed += s.columns) {
    for (int64_t x = 0; x < s.columns; ++x) {
      to[s.across.low[x]] += (1 - s.across.share[x]) * mixed[x];
      to[s.across.high[x]] += s.across.share[x] * mixed[x];
    }
  }
}

}  // namespace

// tensors: maps (B, C, h, w), another tensor, result (B, C, H, W)
extern "C" int resize(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  const float *maps = static_cast<float *>(tensors[0]);
  float *result = static_cast<float *>(tensors[2]);
  const Sizes s(shapes[0], shapes[2]);
  parallel::each_range(s.maps, [&](int64_t first, int64_t end) {
    std::vector<float> row(s.width);
    for (int64_t k = first; k < end; ++k)
      enlarge(maps + k * s.height * s.width, s, row.data(), result + k * s.rows * s.columns);
  });
  return 0;
}

// tensors: gradient of the result, maps (for their shape), gradient of maps
extern "C" int resize_gradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  const float *gradient = static_cast<float *>(tensors[0]);
  float *to = static_cast<float *>(tensors[2]);
  const Sizes s(shapes[2], shapes[0]);
  parallel::each_range(s.maps, [&](int64_t first, int64_t end) {
    std::vector<float> mixed(s.height * s.columns);
    for (int64_t k = first; k < end; ++k)
      gather(gradient + k * s.rows * s.columns, s, mixed.data(), to + k * s.height * s.width);
  });
  return 0;
}
