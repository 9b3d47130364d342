// Convolution of float32 maps with kernels of 3x3, padded by 1, and its gradients on the CPU, for ops.Custom ("aot").
//
// MindSpore's own operator copies maps to a matrix with a row for every tap of the kernel. Here some rows of the maps
// are copied once, with zeros around them, and what a tap meets along a row of outputs is a run of adjacent numbers in
// that copy. Where there are enough channels and pixels, Winograd's tiles take less than half of the time (winograd.h).
// Every number is summed up in one order, so that results do not depend on the number of threads.

#include <vector>

#include "folded.h"
#include "parallel.h"
#include "strips.h"
#include "tiles.h"
#include "winograd.h"

namespace {

constexpr int64_t kOutputs = 64;  // whose weights' gradients are summed up from one panel

// Copies what at(k, c) points to, a lane of row k, to the rows of a panel.
template <int lanes, typename At>
inline void fill_panel(At at, int64_t depth, float *panel) {
  for (int64_t k = 0; k < depth; ++k)
    for (int c = 0; c < lanes; ++c) lane(panel + (k * lanes + c) * kLane) = lane(at(k, c));
}

// A tap of the kernel, 0 to 8, and where what it meets lies in a strip.
struct Tap {
  int index;
  int64_t place;
};

// Some taps of a kernel: their weights, kRows outputs at a time, and where what they meet lies in the strips of all
// channels.
struct Kernel {
  // The weight of output o, channel c and tap t is weight[o * output + c * channel + t].
  template <int stride>
  Kernel(const float *weight, int64_t outputs, int64_t output, int64_t channels, int64_t channel,
         const std::vector<Tap> &taps, const Strip<stride> &strip)
      : outputs(outputs), weights(unset(round_up(outputs, kRows) * channels * taps.size())) {
    for (int64_t c = 0; c < channels; ++c)
      for (const Tap &tap : taps) places.push_back(c * strip.size + tap.place);
    parallel::each(parts(outputs, kRows), [&](int64_t part) {
      const int64_t first = part * kRows;
      float *panel = weights.get() + first * depth();
      for (int64_t c = 0; c < channels; ++c)
        for (const Tap &tap : taps)
          for (int64_t o = first; o < first + kRows; ++o)
            *panel++ = o < outputs ? weight[o * output + c * channel + tap.index] : 0.f;
    });
  }
  int64_t depth() const { return places.size(); }

  int64_t outputs;
  std::vector<int64_t> places;
  std::unique_ptr<float[]> weights;
};

// Where the results of a strip go: `rows` x `columns` of them, `stride` apart in maps that are `width` wide.
template <int stride>
struct Target {
  // Writes `count` results from the `first` one on, `pitch` of which are a row.
  void write(const float *results, int64_t first, int64_t count, int64_t pitch, float *map) const {
    each_row_part(first, count, pitch, [&](int64_t y, int64_t x, int64_t place, int64_t length) {
      if (y >= rows) return;
      float *to = map + (y * width + x) * stride;
      for (int64_t k = 0; k < std::min(length, columns - x); ++k) to[k * stride] = results[place + k];
    });
  }
  int64_t rows, columns, width;
};

// Numbers of space that convolve() takes: a panel, and the sums of a run of columns for all outputs.
inline int64_t space_of(int64_t outputs) { return kColumns * (kDepth + round_up(outputs, kRows)); }

// All results of a strip, in maps of `size` numbers. What some taps of a run of columns meet is copied to a panel that
// the weights of all outputs pass.
template <int stride>
void convolve(const float *strip, int64_t pitch, const Kernel &kernel, const float *bias, const Target<stride> &target,
              int64_t size, float *maps, float *space) {
  const int64_t step = part_of_depth(kernel.depth());
  float *panel = space, *sums = space + kDepth * kColumns;
  each_run(target.rows * pitch, [&](int64_t first, auto lanes) {
    constexpr int64_t wide = lanes * kLane;
    for (int64_t k = 0; k < kernel.depth(); k += step) {
      const int64_t depth = std::min(step, kernel.depth() - k);
      const float *from = strip + first;
      const int64_t *places = kernel.places.data() + k;
      fill_panel<lanes>([=](int64_t i, int c) { return from + places[i] + c * kLane; }, depth, panel);
      const float *weights = kernel.weights.get() + k * kRows;
      multiply_rows<lanes>([&](int64_t o) { return weights + o / kRows * kRows * kernel.depth() + o % kRows; }, kRows,
                           kernel.outputs, panel, depth, k == 0, bias, sums, wide);
    }
    for (int64_t o = 0; o < kernel.outputs; ++o) target.write(sums + o * wide, first, wide, pitch, maps + o * size);
  });
}

template <int stride>
void convolve(const float *maps, const Shapes &s, const float *weight, const float *bias, float *result) {
  if (stride == 1 && winograd::pays(s)) {
    const winograd::Kernel kernel(weight, s.outputs, s.channels * kTaps, s.channels, kTaps, false);
    return winograd::convolve(maps, s, kernel, bias, result);
  }
  const int64_t row_size = s.channels * stride * stride * (s.out_width + 1);
  const int64_t rows = rows_of_strip(s.out_height, row_size, s.batch);
  const Strip<stride> strip(rows, s.out_width);
  std::vector<Tap> taps;
  for (int t = 0; t < kTaps; ++t) taps.push_back({t, strip.tap(t / 3, t % 3)});
  const Kernel kernel(weight, s.outputs, s.channels * kTaps, s.channels, kTaps, taps, strip);
  each_strip(maps, s.batch, s.channels, s.height, s.width, s.out_height, rows, strip,
             space_of(s.outputs), [&](int64_t b, int64_t first, float *copy) {
               const Target<1> target{std::min(rows, s.out_height - first), s.out_width, s.out_width};
               convolve(copy, strip.pitch, kernel, bias, target, s.out_size(),
                        result + b * s.outputs * s.out_size() + first * s.out_width, copy + s.channels * strip.size);
             });
}

// tensors: maps (B, C, H, W), weight (D, C, 3, 3), bias (D), result (B, D, Ho, Wo)
template <int stride>
void convolve(void **tensors, int64_t **dimensions) {
  const auto at = [&](int i) { return static_cast<float *>(tensors[i]); };
  convolve<stride>(at(0), {dimensions[0], dimensions[3]}, at(1), at(2), at(3));
}

// tensors: maps, weight and bias as above, then gain, shift, running mean and variance (D), settings, result
template <int stride>
void normalized(void **tensors, int64_t **dimensions) {
  const auto at = [&](int i) { return static_cast<float *>(tensors[i]); };
  const Shapes s(dimensions[0], dimensions[8]);
  const Folded folded(tensors + 1, s.outputs, s.channels * kTaps);
  convolve<stride>(at(0), s, folded.weight.data(), folded.bias.data(), at(8));
}

// Pixels whose row and column leave some remainders by the stride met the same taps: a part of the gradient of maps
// that is a convolution of the gradient of the result.
template <int stride>
struct Remainder {
  Remainder(int y, int x, const Shapes &s, const float *weight, const Strip<1> &strip)
      : y(y), x(x), kernel(weight, s.channels, kTaps, s.outputs, s.channels * kTaps, taps(y, x, strip), strip) {}

  // Pixel p * stride + remainder is what tap t of output q met where it equals q * stride + t - 1.
  static std::vector<Tap> taps(int y, int x, const Strip<1> &strip) {
    std::vector<Tap> found;
    for (int t = 0; t < kTaps; ++t) {
      const int down = y + 1 - t / 3, right = x + 1 - t % 3;
      if (down % stride == 0 && right % stride == 0)
        found.push_back({t, strip.tap(1 + down / stride, 1 + right / stride)});
    }
    return found;
  }

  int y, x;
  Kernel kernel;
};

// tensors: gradient of the result, weight, maps (for their shape), gradient of maps
template <int stride>
void differentiate_maps(void **tensors, int64_t **dimensions) {
  const float *gradient = static_cast<float *>(tensors[0]), *weight = static_cast<float *>(tensors[1]);
  float *maps_gradient = static_cast<float *>(tensors[3]);
  const Shapes s(dimensions[3], dimensions[0]), turned(dimensions[0], dimensions[3]);
  if (stride == 1 && winograd::pays(turned)) {
    const winograd::Kernel kernel(weight, s.channels, kTaps, s.outputs, s.channels * kTaps, true);
    return winograd::convolve(gradient, turned, kernel, nullptr, maps_gradient);
  }
  const int64_t rows = rows_of_strip(s.out_height, s.outputs * (s.out_width + 1), s.batch);
  const Strip<1> strip(rows, s.out_width);
  std::vector<Remainder<stride>> remainders;
  for (int r = 0; r < stride * stride; ++r) remainders.emplace_back(r / stride, r % stride, s, weight, strip);
  each_strip(gradient, s.batch, s.outputs, s.out_height, s.out_width, s.out_height, rows, strip,
             space_of(s.channels), [&](int64_t b, int64_t first, float *copy) {
               for (const auto &part : remainders) {
                 const int64_t y = first * stride + part.y;
                 if (y >= s.height || part.x >= s.width) continue;
                 const Target<stride> target{std::min(rows, parts(s.height - y, stride)),
                                             parts(s.width - part.x, stride), s.width};
                 convolve(copy, strip.pitch, part.kernel, nullptr, target, s.in_size(),
                          maps_gradient + b * s.channels * s.in_size() + y * s.width + part.x,
                          copy + s.outputs * strip.size);
               }
             });
}

// What the first output's weight in a column, a tap and a channel, meets; the next output's is `channels` further.
template <int stride>
const float *met_by(const Pixels<stride> &pixels, int64_t column) {
  const int64_t tap = column / pixels.channels;
  return pixels.values.get() + pixels.strip.tap(tap / 3, tap % 3) * pixels.channels + column % pixels.channels;
}

// Adds what an image adds to the gradient of the weights of some outputs, for `count` columns.
template <int stride>
void weigh(const float *gradient, int64_t size, int64_t outputs, const Pixels<stride> &pixels, int64_t column,
           int64_t count, float *sums, int64_t pitch) {
  const int64_t step = part_of_depth(size);
  float *panel = scratch(kDepth * kColumns);
  each_run(count, [&](int64_t first, auto lanes) {
    const float *met[lanes];
    for (int c = 0; c < lanes; ++c) met[c] = met_by(pixels, column + first + c * kLane);
    for (int64_t k = 0; k < size; k += step) {
      const int64_t depth = std::min(step, size - k);
      fill_panel<lanes>([&](int64_t i, int c) { return met[c] + (k + i) * pixels.channels; }, depth, panel);
      multiply_rows<lanes>([=](int64_t o) { return gradient + o * size + k; }, 1, outputs, panel, depth, false, nullptr,
                           sums + column + first, pitch);
    }
  });
}

// tensors: maps, gradient of the result, weight (for its shape), gradients of weight and bias
template <int stride>
void differentiate_weight(void **tensors, int64_t **dimensions) {
  const float *maps = static_cast<float *>(tensors[0]), *gradient = static_cast<float *>(tensors[1]);
  float *weight_gradient = static_cast<float *>(tensors[3]), *bias_gradient = static_cast<float *>(tensors[4]);
  const Shapes s(dimensions[0], dimensions[1]);
  sum_channels(gradient, s.batch, s.outputs, s.out_size(), bias_gradient);
  if (stride == 1 && winograd::pays(s, winograd::kFewestOfWeight))
    return winograd::differentiate_weight(maps, gradient, s, weight_gradient);
  Pixels<stride> pixels(s, s.out_height, s.out_width);
  const int64_t pitch = pixels.strip.pitch, size = s.out_height * pitch;
  const int64_t outputs = round_up(s.outputs, kRows), columns = kTaps * pixels.channels;
  const auto rows = unset(outputs * size), sums = unset(outputs * columns);
  std::fill_n(rows.get(), outputs * size, 0.f);
  std::fill_n(sums.get(), outputs * columns, 0.f);
  const int64_t lanes = parts(s.channels, kLane), down = parts(outputs, kOutputs);
  for (int64_t b = 0; b < s.batch; ++b) {
    parallel::each(lanes + s.outputs, [&](int64_t task) {
      if (task < lanes) return pixels.read(maps + b * s.channels * s.in_size(), task * kLane, 0);
      const int64_t o = task - lanes;
      const float *source = gradient + (b * s.outputs + o) * s.out_size();
      for (int64_t y = 0; y < s.out_height; ++y)
        std::copy_n(source + y * s.out_width, s.out_width, rows.get() + o * size + y * pitch);
    });
    parallel::each(parts(columns, kColumns) * down, [&](int64_t task) {
      const int64_t column = task / down * kColumns, o = task % down * kOutputs;
      weigh(rows.get() + o * size, size, std::min(kOutputs, outputs - o), pixels, column,
            std::min(kColumns, columns - column), sums.get() + o * columns, columns);
    });
  }
  parallel::each(s.outputs, [&](int64_t o) {
    for (int64_t c = 0; c < s.channels; ++c)
      for (int64_t t = 0; t < kTaps; ++t)
        weight_gradient[(o * s.channels + c) * kTaps + t] = sums[o * columns + t * pixels.channels + c];
  });
}

}  // namespace

#define OPERATOR(name, function, stride)                                                                       \
  extern "C" int name(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {      \
    function<stride>(tensors, dimensions);                                                                    \
    return 0;                                                                                                 \
  }
#define CONVOLUTION(stride)                                                            \
  OPERATOR(convolve_##stride, convolve, stride)                                        \
  OPERATOR(normalized_##stride, normalized, stride)                                    \
  OPERATOR(convolve_##stride##_gradient, differentiate_maps, stride)                   \
  OPERATOR(convolve_##stride##_weight_gradient, differentiate_weight, stride)
CONVOLUTION(1)
CONVOLUTION(2)
