// RoIAlign of float32 pyramids and its gradient on the CPU, for ops.Custom ("aot").
//
// A bin averages over a grid of bilinear samples, so each region is A_y F A_x^T with few weights in a row of A. They are
// computed once for a region; all channels then share them. No sum is split between threads, so that results do not
// depend on their number.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "parallel.h"

namespace {

// The weights of an axis: output i sums the cells first[i] to first[i] + count[i], with the weights from start[i] on.
struct Axis {
  std::vector<int32_t> first, count, start;
  std::vector<float> weights;
  int64_t low = 0, high = 0;  // the cells that any output meets
};

struct Region {
  int64_t level;
  Axis y, x;
};

struct Level {
  int64_t height, width, offset;  // where its first cell lies in a plane
  float scale;
};

Axis axis_weights(float from, float to, float scale, int64_t outputs, int64_t cells) {
  Axis axis;
  const float size = (to - from) * scale, begin = from * scale - 0.5f, bin = size / outputs;
  const int64_t samples = size > 0 ? static_cast<int64_t>(std::ceil(bin)) : 0;
  std::vector<float> row(cells + 1);
  axis.low = cells;
  for (int64_t i = 0; i < outputs; ++i) {
    int64_t low = cells, high = 0;
    for (int64_t s = 0; s < samples; ++s) {
      float place = begin + i * bin + (s + 0.5f) * bin / samples;
      if (!(place >= -1.f && place <= static_cast<float>(cells))) continue;
      place = std::min(std::max(place, 0.f), static_cast<float>(cells - 1));
      const int64_t cell = static_cast<int64_t>(place);
      const float share = place - cell;
      row[cell] += 1.f - share;
      row[cell + 1] += share;  // 0 for the last cell
      low = std::min(low, cell);
      high = std::max(high, std::min(cell + 2, cells));
    }
    axis.first.push_back(low);
    axis.count.push_back(std::max<int64_t>(high - low, 0));
    axis.start.push_back(axis.weights.size());
    for (int64_t cell = low; cell < high; ++cell) axis.weights.push_back(row[cell] / samples);
    std::fill(row.begin(), row.end(), 0.f);
    axis.low = std::min(axis.low, low);
    axis.high = std::max(axis.high, high);
  }
  return axis;
}

// tensors: planes (B, C, P), boxes (B, R, 4), level of each box (B, R), levels (K, 3): height, width, scale
struct Problem {
  Problem(void **tensors, int64_t **dimensions, int64_t size)
      : batch(dimensions[0][0]), channels(dimensions[0][1]), plane(dimensions[0][2]), count(dimensions[1][1]), size(size) {
    const float *table = static_cast<float *>(tensors[3]);
    int64_t offset = 0;
    for (int64_t k = 0; k < dimensions[3][0]; ++k, table += 3) {
      levels.push_back({static_cast<int64_t>(table[0]), static_cast<int64_t>(table[1]), offset, table[2]});
      offset += levels.back().height * levels.back().width;
      widest = std::max(widest, levels.back().width);
    }
    regions.resize(batch * count);
    const float *boxes = static_cast<float *>(tensors[1]), *chosen = static_cast<float *>(tensors[2]);
    parallel::each(batch * count, [&](int64_t r) {
      const int64_t k = static_cast<int64_t>(chosen[r]);
      const Level &level = levels[k];
      const float *box = boxes + 4 * r;
      regions[r] = {k, axis_weights(box[1], box[3], level.scale, size, level.height),
                    axis_weights(box[0], box[2], level.scale, size, level.width)};
    });
  }
  int64_t batch, channels, plane, count, size, widest = 0;
  std::vector<Level> levels;
  std::vector<Region> regions;
};

// out (size, size): cells are summed along columns first, over runs of adjacent ones, then along rows for all of a
// column's outputs together, so that no sum waits for another.
void pool(const float *map, int64_t width, const Region &region, int64_t size, std::vector<float> &rows, float *out) {
  const Axis &y = region.y, &x = region.x;
  const int64_t low = x.low, run = std::max<int64_t>(x.high - low, 0);
  std::fill_n(rows.data(), size * run, 0.f);
  for (int64_t i = 0; i < size; ++i) {
    float *row = rows.data() + i * run;
    for (int64_t n = 0; n < y.count[i]; ++n) {
      const float weight = y.weights[y.start[i] + n];
      const float *cells = map + (y.first[i] + n) * width + low;
      for (int64_t c = 0; c < run; ++c) row[c] += weight * cells[c];
    }
  }
  std::fill_n(out, size * size, 0.f);
  for (int64_t j = 0; j < size; ++j) {
    const float *weights = x.weights.data() + x.start[j], *cells = rows.data() + x.first[j] - low;
    for (int64_t n = 0; n < x.count[j]; ++n)
      for (int64_t i = 0; i < size; ++i) out[i * size + j] += weights[n] * cells[i * run + n];
  }
}

void spread(const float *out, int64_t width, const Region &region, int64_t size, std::vector<float> &rows, float *map) {
  const Axis &y = region.y, &x = region.x;
  const int64_t low = x.low, run = std::max<int64_t>(x.high - low, 0);
  for (int64_t i = 0; i < size; ++i) {
    if (y.count[i] == 0) continue;
    float *row = rows.data();
    std::fill_n(row, run, 0.f);
    for (int64_t j = 0; j < size; ++j) {
      const float *weights = x.weights.data() + x.start[j];
      float *cells = row + x.first[j] - low;
      for (int64_t n = 0; n < x.count[j]; ++n) cells[n] += weights[n] * out[i * size + j];
    }
    for (int64_t n = 0; n < y.count[i]; ++n) {
      const float weight = y.weights[y.start[i] + n];
      float *cells = map + (y.first[i] + n) * width + low;
      for (int64_t c = 0; c < run; ++c) cells[c] += weight * row[c];
    }
  }
}

template <typename Function>
void each_plane(const Problem &p, Function function) {
  parallel::each_range(p.batch * p.channels, [&](int64_t first, int64_t end) {
    std::vector<float> rows(p.size * (p.widest + 1));
    for (int64_t n = first; n < end; ++n) {
      const int64_t image = n / p.channels, channel = n % p.channels;
      for (int64_t r = image * p.count; r < (image + 1) * p.count; ++r) {
        const Level &level = p.levels[p.regions[r].level];
        function(n * p.plane + level.offset, level.width, p.regions[r], rows,
                 (r * p.channels + channel) * p.size * p.size);
      }
    }
  });
}

}  // namespace

// as above; the result (B, R, C, size, size)
extern "C" int roi_align(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {
  const Problem p(tensors, dimensions, dimensions[4][3]);
  const float *planes = static_cast<float *>(tensors[0]);
  float *result = static_cast<float *>(tensors[4]);
  each_plane(p, [&](int64_t map, int64_t width, const Region &region, std::vector<float> &rows, int64_t out) {
    pool(planes + map, width, region, p.size, rows, result + out);
  });
  return 0;
}

// as above, then the gradient of the result; the gradient of the planes
extern "C" int roi_align_gradient(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {
  const Problem p(tensors, dimensions, dimensions[4][3]);
  const float *result = static_cast<float *>(tensors[4]);
  float *planes = static_cast<float *>(tensors[5]);
  std::fill_n(planes, p.batch * p.channels * p.plane, 0.f);
  each_plane(p, [&](int64_t map, int64_t width, const Region &region, std::vector<float> &rows, int64_t out) {
    spread(result + out, width, region, p.size, rows, planes + map);
  });
  return 0;
}
