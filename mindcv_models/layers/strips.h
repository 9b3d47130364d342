// Parts of maps that convolutions of 3x3 work on: copies with zeros around them, as large as the caches hold.

#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "tiles.h"

namespace {

constexpr int kTaps = 9;
constexpr int64_t kStripSize = 1 << 15;  // numbers in a strip, at most: a part of a core's second cache

struct Shapes {
  Shapes(const int64_t *in, const int64_t *out)
      : batch(in[0]), channels(in[1]), height(in[2]), width(in[3]), outputs(out[1]), out_height(out[2]),
        out_width(out[3]) {}
  int64_t in_size() const { return height * width; }
  int64_t out_size() const { return out_height * out_width; }
  int64_t batch, channels, height, width, outputs, out_height, out_width;
};

// Rows of a map with zeros around them, for `rows` x `columns` outputs. Every `stride`-th row and column lie in a plane
// of their own, and each row ends where the zero before the next one is: outputs have a column more than needed.
template <int stride>
struct Strip {
  Strip(int64_t rows, int64_t columns)
      : rows(rows + 2 / stride), pitch(columns + 1), plane(this->rows * pitch),
        size(stride * stride * plane + kColumns) {}

  // Where the number that the tap of row y and column x meets lies, from that of the first output on; both are up to 2,
  // or 3 with a stride of 2.
  int64_t tap(int y, int x) const {
    return (y % stride * stride + x % stride) * plane + y / stride * pitch + x / stride;
  }

  // Calls function(place in the strip, pixel of the map, length) for the parts of the map's rows that outputs from row
  // `first` on meet.
  template <typename Function>
  void each_row(int64_t height, int64_t width, int64_t first, Function function) const {
    for (int phase = 0; phase < stride * stride; ++phase) {
      const int64_t top = first * stride + phase / stride - 1, left = phase % stride - 1;
      const int64_t begin = left < 0 ? 1 : 0, end = std::min(pitch, parts(width - left, stride));
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t y = top + row * stride;
        if (y >= 0 && y < height)
          function(phase * plane + row * pitch + begin, y * width + left + begin * stride, end - begin);
      }
    }
  }

  void read(const float *map, int64_t height, int64_t width, int64_t first, float *strip) const {
    std::fill_n(strip, size, 0.f);
    each_row(height, width, first, [=](int64_t place, int64_t pixel, int64_t length) {
      for (int64_t x = 0; x < length; ++x) strip[place + x] = map[pixel + x * stride];
    });
  }

  const int64_t rows, pitch, plane, size;
};

// Strips of all channels of an image, for `rows` x `columns` outputs; the channels of a pixel lie next to each other.
template <int stride>
struct Pixels {
  Pixels(const Shapes &s, int64_t rows, int64_t columns)
      : shapes(s), strip(rows, columns), channels(round_up(s.channels, kLane)), values(unset(strip.size * channels)) {}

  // Copies a lane of channels from `first` on, for outputs from `row` on. What fills the last lane up is a copy of the
  // last channel.
  void read(const float *maps, int64_t first, int64_t row) {
    const float *sources[kLane];
    for (int64_t c = 0; c < kLane; ++c)
      sources[c] = maps + std::min(first + c, shapes.channels - 1) * shapes.in_size();
    for (int64_t place = 0; place < strip.size; ++place) lane(values.get() + place * channels + first) = Lane{};
    strip.each_row(shapes.height, shapes.width, row, [&](int64_t place, int64_t pixel, int64_t length) {
      for (int64_t x = 0; x < length; ++x) {
        Lane pixels;
        for (int c = 0; c < kLane; ++c) pixels[c] = sources[c][pixel + x * stride];
        lane(values.get() + (place + x) * channels + first) = pixels;
      }
    });
  }

  const Shapes &shapes;
  const Strip<stride> strip;
  const int64_t channels;  // with those that fill the last lane up
  const std::unique_ptr<float[]> values;
};

// Calls function(b, first, strips of all channels) for parts of `rows` rows of outputs of every image, in parallel.
// Behind the strips there is space for as many numbers as are asked for.
template <int stride, typename Function>
void each_strip(const float *maps, int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t out_height,
                int64_t rows, const Strip<stride> &strip, int64_t space, Function function) {
  const int64_t strips = parts(out_height, rows);
  parallel::each(batch * strips, [&](int64_t task) {
    float *copy = scratch(channels * strip.size + space);
    const int64_t b = task / strips, first = task % strips * rows;
    for (int64_t c = 0; c < channels; ++c)
      strip.read(maps + (b * channels + c) * height * width, height, width, first, copy + c * strip.size);
    function(b, first, copy);
  });
}

// How many of `rows` rows of outputs a strip is for, so that it stays in the cache and every thread has one.
inline int64_t rows_of_strip(int64_t rows, int64_t row_size, int64_t batch) {
  const int64_t strips = std::max(parts(rows * row_size, kStripSize), parts(omp_get_max_threads(), batch));
  return parts(rows, std::min(strips, rows));
}

}  // namespace
