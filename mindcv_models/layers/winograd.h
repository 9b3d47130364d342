// Convolution with kernels of 3x3 and fewer multiplications: Winograd's F(2x2, 3x3) (Lavin and Gray, arXiv:1509.09308,
// section 4.1).
//
// A tile of 4x4 inputs, of which 2x2 outputs are made, is transformed, so that an output costs 4 products instead of 9.
// Larger tiles multiply less, but round twenty times as much. Tiles lie as the outputs of a convolution of stride 2 do.

#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "strips.h"
#include "tiles.h"

namespace winograd {
namespace {

constexpr int kInputs = 4, kOutputs = 2, kPoints = kInputs * kInputs;
constexpr int64_t kFewestChannels = 16;   // of either side, for which transforms pay
constexpr int64_t kFewestOfWeight = 32;   // the same, in the gradient of the weight
constexpr int64_t kSmallestMap = 144;     // pixels
constexpr int64_t kTileSpace = 1 << 18;   // numbers in the tiles of a strip, for the gradient of the weight

// By the map alone, so that no result depends on the batch.
inline bool pays(const Shapes &s, int64_t fewest = kFewestChannels) {
  return std::min(s.channels, s.outputs) >= fewest && s.out_size() >= kSmallestMap;
}

// B^T along an axis, whose entries are `step` apart.
template <typename T>
inline void transform_inputs(const T *d, int step, T *out) {
  out[0] = d[0] - d[2 * step];
  out[step] = d[step] + d[2 * step];
  out[2 * step] = d[2 * step] - d[step];
  out[3 * step] = d[step] - d[3 * step];
}

// A^T along an axis.
template <typename T>
inline void transform_outputs(const T *m, int step, T *out, int out_step) {
  out[0] = m[0] + m[step] + m[2 * step];
  out[out_step] = m[step] - m[2 * step] - m[3 * step];
}

// G along an axis.
template <typename T>
inline void transform_weights(const T *g, int step, T *out, int out_step) {
  const T ends = g[0] + g[2 * step];
  out[0] = g[0];
  out[out_step] = (ends + g[step]) * 0.5f;
  out[2 * out_step] = (ends - g[step]) * 0.5f;
  out[3 * out_step] = g[2 * step];
}

// A along an axis: the gradient of what A^T took.
template <typename T>
inline void spread_outputs(const T *y, int step, T *out, int out_step) {
  out[0] = y[0];
  out[out_step] = y[0] + y[step];
  out[2 * out_step] = y[0] - y[step];
  out[3 * out_step] = -y[step];
}

// G^T along an axis: the gradient of what G took.
inline void gather_weights(const float *u, int step, float *out, int out_step) {
  const float middle = (u[step] + u[2 * step]) * 0.5f;
  out[0] = u[0] + middle;
  out[out_step] = (u[step] - u[2 * step]) * 0.5f;
  out[2 * out_step] = middle + u[3 * step];
}

// Transformed weights: for each point and kRows outputs at a time, those of a channel next to each other.
struct Kernel {
  // The weight of output o, channel c and tap t is weight[o * output + c * channel + t]; or 8 - t, if it is turned.
  Kernel(const float *weight, int64_t outputs, int64_t output, int64_t channels, int64_t channel, bool turned)
      : outputs(outputs), channels(channels), rows(round_up(outputs, kRows)),
        weights(unset(kPoints * rows * channels)) {
    typedef float Rows __attribute__((vector_size(kRows * sizeof(float)), aligned(sizeof(float)), may_alias));
    parallel::each(rows / kRows, [&](int64_t block) {
      const float *sources[kRows];
      for (int64_t r = 0; r < kRows; ++r) sources[r] = weight + std::min(block * kRows + r, outputs - 1) * output;
      for (int64_t c = 0; c < channels; ++c) {
        Rows taps[kTaps], half[3 * kInputs], points[kPoints];
        for (int t = 0; t < kTaps; ++t)
          for (int r = 0; r < kRows; ++r) taps[t][r] = sources[r][c * channel + (turned ? kTaps - 1 - t : t)];
        for (int x = 0; x < 3; ++x) transform_weights(taps + x, 3, half + x, 3);
        for (int y = 0; y < kInputs; ++y) transform_weights(half + y * 3, 1, points + y * kInputs, 1);
        for (int p = 0; p < kPoints; ++p)
          *reinterpret_cast<Rows *>(&weights[(p * rows + block * kRows) * channels + c * kRows]) = points[p];
      }
    });
  }
  // Those of a point and the kRows outputs from o on.
  const float *at(int point, int64_t o) const { return weights.get() + (point * rows + o) * channels; }

  int64_t outputs, channels, rows;
  std::unique_ptr<float[]> weights;
};

// A lane of tiles, or of a tile's channels, whose inputs lie at `places` of a strip; points are `point` apart in `to`.
inline void read_tiles(const float *strip, const int64_t (&places)[kPoints], int64_t point, float *to) {
  Lane tile[kPoints], half[kPoints], points[kPoints];
#pragma GCC unroll 16
  for (int p = 0; p < kPoints; ++p) tile[p] = lane(strip + places[p]);
#pragma GCC unroll 4
  for (int i = 0; i < kInputs; ++i) transform_inputs(tile + i, kInputs, half + i);
#pragma GCC unroll 4
  for (int i = 0; i < kInputs; ++i) transform_inputs(half + i * kInputs, 1, points + i * kInputs);
#pragma GCC unroll 16
  for (int p = 0; p < kPoints; ++p) lane(to + p * point) = points[p];
}

// Of an output's products[point][tile] two lines: the upper and the lower pixels of the tiles of a lane.
inline void make_pixels(const float *products, int64_t point, float bias, float *upper, float *lower) {
  Lane tile[kPoints], half[kOutputs * kInputs], pixels[kOutputs * kOutputs];
#pragma GCC unroll 16
  for (int p = 0; p < kPoints; ++p) tile[p] = lane(products + p * point);
#pragma GCC unroll 4
  for (int i = 0; i < kInputs; ++i) transform_outputs(tile + i, kInputs, half + i, kInputs);
#pragma GCC unroll 2
  for (int i = 0; i < kOutputs; ++i) transform_outputs(half + i * kInputs, 1, pixels + i * kOutputs, 1);
  float *lines[] = {upper, lower};
#pragma GCC unroll 2
  for (int i = 0; i < kOutputs; ++i) {
    const Lane left = pixels[i * kOutputs] + bias, right = pixels[i * kOutputs + 1] + bias;
    for (int k = 0; k < kLane; ++k) lines[i][2 * k] = left[k], lines[i][2 * k + 1] = right[k];
  }
}

// Where the pixels of a strip's tiles go, in a map of `height` x `width`; the first tile's row of pixels is `top`.
struct Target {
  // Writes the lines of `count` tiles from the `first` one on, `pitch` of which are a row.
  void write(const float *upper, const float *lower, int64_t first, int64_t count, int64_t pitch, float *map) const {
    const float *lines[] = {upper, lower};
    each_row_part(first, count, pitch, [&](int64_t row, int64_t column, int64_t place, int64_t length) {
      if (row >= rows) return;
      for (int k = 0; k < kOutputs; ++k) {
        const int64_t y = top + row * kOutputs + k, x = column * kOutputs;
        if (y < height && x < width)
          std::copy_n(lines[k] + place * kOutputs, std::min(length * kOutputs, width - x), map + y * width + x);
      }
    });
  }
  int64_t rows, top, height, width;
};

// Maps (B, C, H, W) to results (B, D, H, W), which start from a bias if there is one.
inline void convolve(const float *maps, const Shapes &s, const Kernel &kernel, const float *bias, float *result) {
  const int64_t down = parts(s.out_height, kOutputs), across = parts(s.out_width, kOutputs);
  const int64_t rows = rows_of_strip(down, s.channels * kOutputs * kOutputs * (across + 1), s.batch);
  const Strip<2> strip(rows, across);
  int64_t places[kPoints];
  for (int p = 0; p < kPoints; ++p) places[p] = strip.tap(p / kInputs, p % kInputs);
  const int64_t inputs = kPoints * s.channels * kColumns, products = kPoints * kernel.rows * kColumns;
  each_strip(maps, s.batch, s.channels, s.height, s.width, down, rows, strip, inputs + products,
             [&](int64_t b, int64_t first, float *copy) {
    float *tiles = copy + s.channels * strip.size, *multiplied = tiles + inputs;
    const Target target{std::min(rows, down - first), first * kOutputs, s.out_height, s.out_width};
    each_run(target.rows * strip.pitch, [&](int64_t begin, auto lanes) {
      constexpr int64_t wide = lanes * kLane;
      for (int64_t c = 0; c < s.channels; ++c)
        for (int64_t l = 0; l < wide; l += kLane)
          read_tiles(copy + c * strip.size + begin + l, places, s.channels * wide, tiles + c * wide + l);
      for (int p = 0; p < kPoints; ++p) {
        const float *inputs = tiles + p * s.channels * wide;
        for (int64_t o = 0; o < kernel.rows; o += kRows) {
          const float *weights = kernel.at(p, o);
          Lane sums[kRows][lanes] = {};
          multiply<lanes>(s.channels, [=](int r, int64_t k) { return weights[k * kRows + r]; },
                          [=](int64_t k, int c) { return inputs + k * wide + c * kLane; }, sums);
          store<lanes>(sums, multiplied + (p * kernel.rows + o) * wide, wide);
        }
      }
      for (int64_t o = 0; o < s.outputs; ++o) {
        float upper[kOutputs * wide], lower[kOutputs * wide];
        for (int64_t l = 0; l < wide; l += kLane)
          make_pixels(multiplied + o * wide + l, kernel.rows * wide, bias ? bias[o] : 0.f, upper + kOutputs * l,
                      lower + kOutputs * l);
        target.write(upper, lower, begin, wide, strip.pitch, result + (b * s.outputs + o) * s.out_size());
      }
    });
  });
}

// The gradient of an output's pixels, for `rows` rows of `pitch` tiles from row `first` on. Points lie `point` apart in
// `to`, which has space for a lane more than there are tiles.
inline void spread_pixels(const float *map, const Shapes &s, int64_t first, int64_t rows, int64_t pitch, int64_t point,
                          float *to, float *lines) {
  const int64_t wide = round_up(pitch, kLane);
  for (int64_t row = 0; row < rows; ++row, to += pitch) {
    std::fill_n(lines, kOutputs * kOutputs * wide, 0.f);
    for (int k = 0; k < kOutputs; ++k) {
      const int64_t y = (first + row) * kOutputs + k;
      float *line = lines + k * kOutputs * wide;
      if (y >= s.out_height) continue;
      for (int64_t x = 0; x < s.out_width; ++x) line[x % kOutputs * wide + x / kOutputs] = map[y * s.out_width + x];
    }
    for (int64_t l = 0; l < pitch; l += kLane) {
      Lane pixels[kOutputs * kOutputs], half[kInputs * kOutputs], points[kPoints];
      for (int i = 0; i < kOutputs * kOutputs; ++i) pixels[i] = lane(lines + i * wide + l);
      for (int i = 0; i < kOutputs; ++i) spread_outputs(pixels + i, kOutputs, half + i, kOutputs);
      for (int i = 0; i < kInputs; ++i) spread_outputs(half + i * kOutputs, 1, points + i * kInputs, 1);
      for (int p = 0; p < kPoints; ++p) lane(to + p * point + l) = points[p];
    }
  }
}

// The gradient of weight (D, C, 3, 3) from that of the results: at each point, tiles of inputs times tiles of outputs.
inline void differentiate_weight(const float *maps, const float *gradient, const Shapes &s, float *weight_gradient) {
  const int64_t down = parts(s.out_height, kOutputs), across = parts(s.out_width, kOutputs), pitch = across + 1;
  const int64_t outputs = round_up(s.outputs, kRows), channels = round_up(s.channels, kLane);
  const int64_t most = kTileSpace / (kPoints * pitch * std::max(outputs, channels));
  const int64_t rows = std::clamp<int64_t>(most, 1, down), tiles = rows * pitch + kLane;
  Pixels<2> pixels(s, rows, across);
  int64_t places[kPoints];
  for (int p = 0; p < kPoints; ++p) places[p] = pixels.strip.tap(p / kInputs, p % kInputs) * channels;
  const auto inputs = unset(kPoints * tiles * channels), results = unset(kPoints * outputs * tiles);
  const auto sums = unset(kPoints * outputs * channels);
  std::fill_n(results.get(), kPoints * outputs * tiles, 0.f);
  std::fill_n(sums.get(), kPoints * outputs * channels, 0.f);
  const auto add_strip = [&](int64_t b, int64_t first) {
    const int64_t height = std::min(rows, down - first), lanes = channels / kLane, blocks = parts(channels, kColumns);
    parallel::each(lanes + s.outputs, [&](int64_t task) {
      if (task < lanes) {
        const int64_t c = task * kLane;
        pixels.read(maps + b * s.channels * s.in_size(), c, first);
        for (int64_t t = 0; t < height * pitch; ++t)
          read_tiles(pixels.values.get() + t * channels + c, places, tiles * channels, &inputs[t * channels + c]);
        return;
      }
      const int64_t o = task - lanes;
      spread_pixels(gradient + (b * s.outputs + o) * s.out_size(), s, first, height, pitch, outputs * tiles,
                    &results[o * tiles], scratch(kOutputs * kOutputs * round_up(pitch, kLane)));
    });
    parallel::each(kPoints * blocks, [&](int64_t task) {
      const int64_t p = task / blocks, column = task % blocks * kColumns;
      each_run(std::min(kColumns, channels - column), [&](int64_t begin, auto lanes) {
        const float *right = &inputs[p * tiles * channels + column + begin];
        for (int64_t o = 0; o < outputs; o += kRows) {
          const float *left = &results[(p * outputs + o) * tiles];
          float *to = &sums[(p * outputs + o) * channels + column + begin];
          Lane tile[kRows][lanes];
          load<lanes>([&](int r, int c) { return lane(to + r * channels + c * kLane); }, tile);
          multiply<lanes>(height * pitch, [=](int r, int64_t k) { return left[r * tiles + k]; },
                          [=](int64_t k, int c) { return right + k * channels + c * kLane; }, tile);
          store<lanes>(tile, to, channels);
        }
      });
    });
  };
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t first = 0; first < down; first += rows) add_strip(b, first);
  parallel::each(s.outputs, [&](int64_t o) {
    for (int64_t c = 0; c < s.channels; ++c) {
      float points[kPoints], half[3 * kInputs];
      for (int p = 0; p < kPoints; ++p) points[p] = sums[(p * outputs + o) * channels + c];
      for (int x = 0; x < kInputs; ++x) gather_weights(points + x, kInputs, half + x, kInputs);
      for (int y = 0; y < 3; ++y)
        gather_weights(half + y * kInputs, 1, weight_gradient + (o * s.channels + c) * kTaps + y * 3, 1);
    }
  });
}

}  // namespace
}  // namespace winograd
