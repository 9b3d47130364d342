// Bilinear resizing of rows between pixel centres, and its gradient.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

// Result i is between `low[i]` and `high[i]`, whose pixel centres are the nearest ones, the part `share[i]` of the way.
struct Axis {
  Axis(int64_t before, int64_t after) : low(after), high(after), share(after) {
    for (int64_t i = 0; i < after; ++i) {
      const double place = std::max((i + 0.5) * before / after - 0.5, 0.);
      low[i] = std::min(static_cast<int32_t>(place), static_cast<int32_t>(before - 1));
      high[i] = std::min(low[i] + 1, static_cast<int32_t>(before - 1));
      share[i] = place - low[i];
    }
  }
  std::vector<int32_t> low, high;
  std::vector<float> share;
};

struct Sizes {
  // Sides (h, w) before and (H, W) after.
  Sizes(const int64_t *before, const int64_t *after)
      : height(before[0]), width(before[1]), rows(after[0]), columns(after[1]), down(height, rows),
        across(width, columns) {}
  int64_t height, width, rows, columns;
  Axis down, across;
};

// Row y of the result, from a map; `mixed` has space for a row of the map.
inline void enlarge_row(const float *map, const Sizes &s, int64_t y, float *mixed, float *result) {
  const float *low = map + s.down.low[y] * s.width, *high = map + s.down.high[y] * s.width;
  const float down = s.down.share[y], *across = s.across.share.data();
  const int32_t *left = s.across.low.data(), *right = s.across.high.data();
  for (int64_t x = 0; x < s.width; ++x) mixed[x] = (1 - down) * low[x] + down * high[x];
  for (int64_t x = 0; x < s.columns; ++x) result[x] = (1 - across[x]) * mixed[left[x]] + across[x] * mixed[right[x]];
}

// The gradient of the result's row y, added to those rows `first` to `end` - 1 of the map that it is between. They lie
// one after the other in `mixed`, as wide as the result.
inline void spread_row(const float *gradient, const Sizes &s, int64_t y, int64_t first, int64_t end, float *mixed) {
  const int64_t places[] = {s.down.low[y], s.down.high[y]};
  const float shares[] = {1 - s.down.share[y], s.down.share[y]};
  for (int side = 0; side < 2; ++side) {
    if (places[side] < first || places[side] >= end) continue;
    float *to = mixed + (places[side] - first) * s.columns;
    for (int64_t x = 0; x < s.columns; ++x) to[x] += shares[side] * gradient[x];
  }
}

// Such a row, once it is complete, to the gradient of the map's row.
inline void narrow_row(const float *mixed, const Sizes &s, float *to) {
  std::fill_n(to, s.width, 0.f);
  for (int64_t x = 0; x < s.columns; ++x) {
    to[s.across.low[x]] += (1 - s.across.share[x]) * mixed[x];
    to[s.across.high[x]] += s.across.share[x] * mixed[x];
  }
}

}  // namespace
