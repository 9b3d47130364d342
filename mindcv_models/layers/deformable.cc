// Bilinear samples of float32 maps at displaced places and their gradients on the CPU, for ops.Custom ("aot").
//
// Where a tap's samples lie, and what the four pixels around each count, is computed once for a run of channels that
// move together. No sum is split between threads, so that results do not depend on their number.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tiles.h"

namespace {

constexpr int64_t kRun = 32;  // channels that a thread samples at a time
constexpr int kCorners = 4;   // pixels around a place

// The pixels before and after a place on an axis: which, their shares, and how these change with the place. Outside the
// axis a pixel counts nothing.
struct Neighbours {
  Neighbours(float place, int64_t size) {
    const float low = std::floor(place), fraction = place - low, last = size - 1;
    const bool has_low = low >= 0 && low <= last, has_high = place > -1 && low < last;
    index[0] = low > 0 ? std::min(low, last) : 0;  // NaN too
    index[1] = low > -1 ? std::min(low + 1, last) : 0;
    share[0] = (1 - fraction) * has_low, share[1] = fraction * has_high;
    slope[0] = -1.f * has_low, slope[1] = has_high;
  }
  int64_t index[2];
  float share[2], slope[2];
};

// tensors: x (B, C, H, W), offset (B, G * taps * 2, Ho, Wo), kernel height and width, and the stride, padding and
// dilation of either axis (8)
struct Problem {
  Problem(float **tensors, int64_t **shapes)
      : x(tensors[0]), offset(tensors[1]), batch(shapes[0][0]), channels(shapes[0][1]), height(shapes[0][2]),
        width(shapes[0][3]), rows(shapes[1][2]), columns(shapes[1][3]), places(rows * columns) {
    for (int i = 0; i < 8; ++i) settings[i] = std::lround(tensors[2][i]);
    taps = settings[0] * settings[1];
    groups = shapes[1][1] / (2 * taps);
    together = channels / groups;
    runs = parts(together, kRun);
  }
  const float *plane(int64_t b, int64_t c) const { return x + (b * channels + c) * height * width; }
  const float *offsets(int64_t b, int64_t group, int64_t tap) const {
    return offset + ((b * groups + group) * taps + tap) * 2 * places;
  }
  // Of (B, C * taps, Ho, Wo)
  int64_t sample(int64_t b, int64_t c, int64_t tap) const { return ((b * channels + c) * taps + tap) * places; }

  const float *x, *offset;
  int64_t batch, channels, height, width, rows, columns, places, taps, groups, together, runs;
  int64_t settings[8];
};

// The places of one tap: the pixels around each, their shares, and how these change downwards and to the right.
struct Table {
  Table(int64_t places, float *space)
      : places(places), shares(space), down(space + kCorners * places), right(space + 2 * kCorners * places),
        index(reinterpret_cast<int32_t *>(space + 3 * kCorners * places)) {}
  static int64_t space(int64_t places) { return 4 * kCorners * places; }

  void compute(const Problem &p, int64_t b, int64_t group, int64_t tap) {
    const float *moved = p.offsets(b, group, tap);
    const int64_t *s = p.settings, y = tap / s[1] * s[6] - s[4], x = tap % s[1] * s[7] - s[5];
    for (int64_t i = 0; i < places; ++i) {
      const Neighbours row(moved[i] + (i / p.columns * s[2] + y), p.height);
      const Neighbours column(moved[places + i] + (i % p.columns * s[3] + x), p.width);
      for (int k = 0; k < kCorners; ++k) {
        const int u = k / 2, v = k % 2;
        index[k * places + i] = row.index[u] * p.width + column.index[v];
        shares[k * places + i] = row.share[u] * column.share[v];
        down[k * places + i] = row.slope[u] * column.share[v];
        right[k * places + i] = row.share[u] * column.slope[v];
      }
    }
  }

  float blend(const float *plane, const float *factors, int64_t i) const {
    float total = 0;
    for (int k = 0; k < kCorners; ++k) total += factors[k * places + i] * plane[index[k * places + i]];
    return total;
  }

  int64_t places;
  float *shares, *down, *right;
  int32_t *index;
};

// Calls function(b, group, first channel, end, table space) for runs of channels that move together.
template <typename Function>
void each_run_of_channels(const Problem &p, Function function) {
  parallel::each(p.batch * p.groups * p.runs, [&](int64_t task) {
    const int64_t b = task / (p.groups * p.runs), group = task / p.runs % p.groups, first = task % p.runs * kRun;
    const int64_t end = std::min(p.together, first + kRun), base = group * p.together;
    function(b, group, base + first, base + end, Table(p.places, scratch(Table::space(p.places))));
  });
}

}  // namespace

// tensors: those of Problem, samples (B, C * taps, Ho, Wo)
extern "C" int samples(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  float **data = reinterpret_cast<float **>(tensors);
  const Problem p(data, shapes);
  each_run_of_channels(p, [&](int64_t b, int64_t group, int64_t first, int64_t end, Table table) {
    for (int64_t tap = 0; tap < p.taps; ++tap) {
      table.compute(p, b, group, tap);
      for (int64_t c = first; c < end; ++c) {
        const float *plane = p.plane(b, c);
        float *to = data[3] + p.sample(b, c, tap);
        for (int64_t i = 0; i < p.places; ++i) to[i] = table.blend(plane, table.shares, i);
      }
    }
  });
  return 0;
}

// tensors: those of Problem, gradient of the samples; gradient of x
extern "C" int samples_gradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  float **data = reinterpret_cast<float **>(tensors);
  const Problem p(data, shapes);
  const int64_t size = p.height * p.width;
  each_run_of_channels(p, [&](int64_t b, int64_t group, int64_t first, int64_t end, Table table) {
    std::fill_n(data[4] + (b * p.channels + first) * size, (end - first) * size, 0.f);
    for (int64_t tap = 0; tap < p.taps; ++tap) {
      table.compute(p, b, group, tap);
      for (int64_t c = first; c < end; ++c) {
        const float *from = data[3] + p.sample(b, c, tap);
        float *to = data[4] + (b * p.channels + c) * size;
        for (int64_t i = 0; i < p.places; ++i)
          for (int k = 0; k < kCorners; ++k)
            to[table.index[k * p.places + i]] += table.shares[k * p.places + i] * from[i];
      }
    }
  });
  return 0;
}

// tensors: those of Problem, gradient of the samples; gradient of the offsets
extern "C" int offsets_gradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  float **data = reinterpret_cast<float **>(tensors);
  const Problem p(data, shapes);
  parallel::each(p.batch * p.groups * p.taps, [&](int64_t task) {
    const int64_t tap = task % p.taps, group = task / p.taps % p.groups, b = task / p.taps / p.groups;
    Table table(p.places, scratch(Table::space(p.places)));
    table.compute(p, b, group, tap);
    float *down = data[4] + task * 2 * p.places, *right = down + p.places;
    std::fill_n(down, 2 * p.places, 0.f);
    for (int64_t c = group * p.together; c < (group + 1) * p.together; ++c) {
      const float *from = data[3] + p.sample(b, c, tap), *plane = p.plane(b, c);
      for (int64_t i = 0; i < p.places; ++i) {
        down[i] += from[i] * table.blend(plane, table.down, i);
        right[i] += from[i] * table.blend(plane, table.right, i);
      }
    }
  });
  return 0;
}
