// Depthwise convolution of float32 maps and its gradient on the CPU, for ops.Custom ("aot").
//
// MindSpore's own operator multiplies a matrix by a vector for each channel; the matrix is a copy of the map, as many
// times its size as the kernel has taps. Here a map is copied once, with its margins, and every tap is a run of adjacent
// numbers in that copy. No sum is split between threads, so that results do not depend on their number.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>

#include "folded.h"
#include "parallel.h"

namespace {

// Numbers that are computed at a time: as many as a register holds where rows are long, and fewer of short rows.
#ifdef __AVX512F__
constexpr int kLong = 16, kShort = 8;
#else
constexpr int kLong = 8, kShort = 8;
#endif
constexpr int kTiles = 8;  // lanes of outputs that are summed up at a time, beside or below each other

template <int width>
struct Vector {
  typedef float Lane __attribute__((vector_size(width * sizeof(float))));
};
template <int width>
using Lane = typename Vector<width>::Lane;

template <int width>
inline Lane<width> load(const float *from) {
  Lane<width> lane;
  std::memcpy(&lane, from, sizeof(lane));
  return lane;
}

// Calls function(the width of a lane, a constant) for rows of so many outputs.
template <typename Function>
inline void with_lane(int64_t columns, Function function) {
  if (columns > kLong) function(std::integral_constant<int, kLong>());
  else function(std::integral_constant<int, kShort>());
}

struct Shapes {
  Shapes(const int64_t *in, const int64_t *out)
      : batch(in[0]), channels(in[1]), height(in[2]), width(in[3]), multiplier(out[1] / in[1]), out_height(out[2]),
        out_width(out[3]) {}
  int64_t in_size() const { return height * width; }
  int64_t out_size() const { return out_height * out_width; }
  int64_t batch, channels, height, width, multiplier, out_height, out_width;
};

// A map with zeros around it. The columns that a tap meets in a row, every `stride`-th, are next to each other.
template <int size, int stride>
class Padded {
 public:
  explicit Padded(const Shapes &shapes)
      : height_(shapes.height), width_(shapes.width), pitch_(shapes.out_width + size / stride),
        data_((stride * (shapes.out_height - 1 + kTiles) + size) * stride * pitch_ + kTiles * kLong) {}

  int64_t pitch() const { return stride * stride * pitch_; }  // from the row that one output meets to the next
  float *tap(int64_t y, int64_t x) { return data_.data() + (y * stride + x % stride) * pitch_ + x / stride; }

  void clear() { std::fill(data_.begin(), data_.end(), 0.f); }
  void read(const float *map) {
    each_pixel([map](float &inside, int64_t pixel) { inside = map[pixel]; });
  }
  void write(float *map) {
    each_pixel([map](float &inside, int64_t pixel) { map[pixel] = inside; });
  }

 private:
  template <typename Function>
  void each_pixel(Function function) {
    constexpr int64_t margin = size / 2;
    for (int64_t y = 0; y < height_; ++y) {
      for (int64_t phase = 0; phase < stride; ++phase) {
        const int64_t first = (margin - phase + stride - 1) / stride;  // where the map's first column of this phase lies
        const int64_t x = first * stride + phase - margin, count = (width_ - x + stride - 1) / stride;
        float *row = tap(y + margin, phase) + first;
        for (int64_t i = 0; i < count; ++i) function(row[i], y * width_ + x + i * stride);
      }
    }
  }

  int64_t height_, width_, pitch_;
  std::vector<float> data_;  // with what tiles at the ends read in vain
};

// The bias and all taps of a tile of outputs, of which `lanes` lanes lie beside each other and `height` x `width` numbers
// are wanted.
template <int lane, int lanes, int size, int stride>
void sum_taps(Padded<size, stride> &map, int64_t offset, const float *kernel, float bias, float *out, int64_t pitch,
              int64_t height, int64_t width) {
  constexpr int rows = kTiles / lanes;
  Lane<lane> sums[rows][lanes] = {};
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const float *taps = map.tap(y, x) + offset;
      for (int row = 0; row < rows; ++row)
        for (int i = 0; i < lanes; ++i)
          sums[row][i] += kernel[y * size + x] * load<lane>(taps + row * map.pitch() + i * lane);
    }
  }
  for (int64_t row = 0; row < std::min<int64_t>(rows, height); ++row)
    for (int64_t x = 0; x < std::min<int64_t>(lanes * lane, width); x += lane) {
      const Lane<lane> result = sums[row][x / lane] + bias;
      float *to = out + row * pitch + x;
      if (x + lane <= width) std::memcpy(to, &result, sizeof(result));
      else for (int64_t i = 0; i < width - x; ++i) to[i] = result[i];
    }
}

// The tiles of the result below each other from column `x` on; returns how many columns that are.
template <int lane, int lanes, int size, int stride>
int64_t sum_strip(Padded<size, stride> &map, int64_t x, const float *kernel, float bias, float *out, const Shapes &s) {
  for (int64_t y = 0; y < s.out_height; y += kTiles / lanes)
    sum_taps<lane, lanes>(map, y * map.pitch() + x, kernel, bias, out + y * s.out_width + x, s.out_width,
                          s.out_height - y, s.out_width - x);
  return lanes * lane;
}

// A whole result.
template <int size, int stride>
void sum_plane(Padded<size, stride> &map, const float *kernel, float bias, float *out, const Shapes &s) {
  with_lane(s.out_width, [&](auto lane) {
    for (int64_t x = 0; x < s.out_width;) {
      const int64_t left = s.out_width - x;
      x += left > 2 * lane ? sum_strip<lane, 4>(map, x, kernel, bias, out, s)
           : left > lane   ? sum_strip<lane, 2>(map, x, kernel, bias, out, s)
                           : sum_strip<lane, 1>(map, x, kernel, bias, out, s);
    }
  });
}

template <int size, int stride>
void convolve(const float *maps, const Shapes &s, const float *weight, const float *biases, float *result) {
  parallel::each_range(s.batch * s.channels, [&](int64_t first, int64_t end) {
    Padded<size, stride> map(s);
    for (int64_t plane = first; plane < end; ++plane) {
      map.read(maps + plane * s.in_size());
      for (int64_t m = 0; m < s.multiplier; ++m) {
        const int64_t channel = plane % s.channels * s.multiplier + m;
        sum_plane(map, weight + channel * size * size, biases[channel],
                  result + (plane * s.multiplier + m) * s.out_size(), s);
      }
    }
  });
}

// tensors: maps (B, C, H, W), weight (C * M, 1, K, K), bias (C * M), result (B, C * M, Ho, Wo)
template <int size, int stride>
int convolve(void **tensors, int64_t **dimensions) {
  const auto at = [&](int i) { return static_cast<float *>(tensors[i]); };
  convolve<size, stride>(at(0), {dimensions[0], dimensions[3]}, at(1), at(2), at(3));
  return 0;
}

// tensors: maps, weight and bias as above, then gain, shift, running mean and variance (C * M), settings, result
template <int size, int stride>
int normalized(void **tensors, int64_t **dimensions) {
  const auto at = [&](int i) { return static_cast<float *>(tensors[i]); };
  const Folded folded(tensors + 1, dimensions[1][0], size * size);
  convolve<size, stride>(at(0), {dimensions[0], dimensions[8]}, folded.weight.data(), folded.bias.data(), at(8));
  return 0;
}

// The gradient of a result, with zeros on both sides of its rows, so that it can be read shifted by any tap.
class Rows {
 public:
  Rows(int64_t height, int64_t width, int64_t taps)
      : height_(height), width_(width), pitch_(kLong + (width + taps) / kLong * kLong + kLong),
        data_(height * pitch_ + kLong) {}

  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  const float *row(int64_t y) const { return data_.data() + y * pitch_ + kLong; }
  void read(const float *map) {
    for (int64_t y = 0; y < height_; ++y) std::copy_n(map + y * width_, width_, data_.data() + y * pitch_ + kLong);
  }

 private:
  int64_t height_, width_, pitch_;
  std::vector<float> data_;
};

inline double sum(const float *values, int64_t count) {
  Lane<kLong> lanes = {};
  const int64_t whole = count / kLong * kLong;
  for (int64_t i = 0; i < whole; i += kLong) lanes += load<kLong>(values + i);
  double total = std::accumulate(values + whole, values + count, 0.);
  for (int i = 0; i < kLong; ++i) total += lanes[i];
  return total;
}

// What the taps of row `y` of the kernel add to the gradient of its weights: sums over the result.
template <int lane, int size, int stride>
void weigh(Padded<size, stride> &map, int64_t y, const Rows &rows, double *sums) {
  const float *taps[size];
  for (int k = 0; k < size; ++k) taps[k] = map.tap(y, k);
  Lane<lane> products[size] = {};
  for (int64_t row = 0; row < rows.height(); ++row) {
    for (int64_t x = 0; x < rows.width(); x += lane) {
      const Lane<lane> gradient = load<lane>(rows.row(row) + x);
      for (int k = 0; k < size; ++k) products[k] += gradient * load<lane>(taps[k] + row * map.pitch() + x);
    }
  }
  for (int k = 0; k < size; ++k)
    for (int i = 0; i < lane; ++i) sums[k] += products[k][i];
}

// What the taps of row `y` of the kernel, `weights`, add to the gradient of the map: each column of it is summed up over
// the taps that met it.
template <int lane, int size, int stride>
void spread(Padded<size, stride> &gradient, int64_t y, const float *weights, const Rows &rows) {
  for (int phase = 0; phase < stride; ++phase) {
    const int taps = (size - phase + stride - 1) / stride;
    for (int64_t row = 0; row < rows.height(); ++row) {
      float *target = gradient.tap(y, phase) + row * gradient.pitch();
      for (int64_t x = 0; x < rows.width() + taps - 1; x += lane) {
        Lane<lane> sum = load<lane>(target + x);
        for (int k = 0; k < taps; ++k) sum += weights[k * stride + phase] * load<lane>(rows.row(row) + x - k);
        std::memcpy(target + x, &sum, sizeof(sum));
      }
    }
  }
}

// tensors: maps, weight, gradient of the result, as above; then the gradients of maps, weight and bias
template <int size, int stride>
int differentiate(void **tensors, int64_t **dimensions) {
  const float *maps = static_cast<float *>(tensors[0]), *weight = static_cast<float *>(tensors[1]);
  const float *result_gradient = static_cast<float *>(tensors[2]);
  float *maps_gradient = static_cast<float *>(tensors[3]), *weight_gradient = static_cast<float *>(tensors[4]);
  float *bias_gradient = static_cast<float *>(tensors[5]);
  const Shapes s(dimensions[0], dimensions[2]);
  constexpr int64_t taps = size * size;
  // The gradient of a map is then the convolution of the result's gradient with the kernel turned by 180 degrees.
  const bool turned = stride == 1 && s.multiplier == 1;
  parallel::each_range(s.channels, [&](int64_t first, int64_t end) {
    Padded<size, stride> map(s), gradient(s);
    Rows rows(s.out_height, s.out_width, size);
    std::vector<double> sums(s.multiplier * taps), bias_sums(s.multiplier);
    for (int64_t channel = first; channel < end; ++channel) {
      std::fill(sums.begin(), sums.end(), 0.);
      std::fill(bias_sums.begin(), bias_sums.end(), 0.);
      for (int64_t b = 0; b < s.batch; ++b) {
        const int64_t plane = b * s.channels + channel;
        map.read(maps + plane * s.in_size());
        if (!turned) gradient.clear();
        for (int64_t m = 0; m < s.multiplier; ++m) {
          const float *source = result_gradient + (plane * s.multiplier + m) * s.out_size();
          rows.read(source);
          bias_sums[m] += sum(source, s.out_size());
          const float *kernel = weight + (channel * s.multiplier + m) * taps;
          with_lane(s.out_width, [&](auto lane) {
            for (int64_t y = 0; y < size; ++y) weigh<lane>(map, y, rows, sums.data() + m * taps + y * size);
          });
          if (turned) {
            float kernel_turned[taps];
            std::reverse_copy(kernel, kernel + taps, kernel_turned);
            gradient.read(source);
            sum_plane(gradient, kernel_turned, 0, maps_gradient + plane * s.in_size(), s);
          } else {
            with_lane(s.out_width, [&](auto lane) {
              for (int64_t y = 0; y < size; ++y) spread<lane>(gradient, y, kernel + y * size, rows);
            });
          }
        }
        if (!turned) gradient.write(maps_gradient + plane * s.in_size());
      }
      std::copy(sums.begin(), sums.end(), weight_gradient + channel * s.multiplier * taps);
      std::copy(bias_sums.begin(), bias_sums.end(), bias_gradient + channel * s.multiplier);
    }
  });
  return 0;
}

}  // namespace

#define OPERATOR(name, function, size, stride)                                                                   \
  extern "C" int name##_##size##_##stride(int, void **tensors, int *, int64_t **dimensions, const char **, void *, \
                                          void *) {                                                              \
    return function<size, stride>(tensors, dimensions);                                                          \
  }
#define DEPTHWISE(size, stride)             \
  OPERATOR(convolve, convolve, size, stride) \
  OPERATOR(normalized, normalized, size, stride) \
  OPERATOR(differentiate, differentiate, size, stride)
DEPTHWISE(1, 1)
DEPTHWISE(1, 2)
DEPTHWISE(3, 1)
DEPTHWISE(3, 2)
DEPTHWISE(7, 1)
DEPTHWISE(7, 2)
