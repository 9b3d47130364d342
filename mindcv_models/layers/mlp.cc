// Two linear layers with GELU between them, scaled and added to a residual, on the CPU, for ops.Custom ("aot"), in
// inference.
//
// As operators of their own they write and read what is between them, two to four times the size of their input, four
// times. Here a few columns (pixels or tokens) at a time pass both layers, a few hidden numbers of each at a time, so
// that it stays in the cache. Every number is summed up in one order, whatever the batch and the number of threads.

#include <vector>

#include "gelu.h"
#include "parallel.h"
#include "tiles.h"

namespace {

constexpr int64_t kRuns = 4;      // of columns that a thread takes at a time, so that weights serve several
constexpr int64_t kHidden = 128;  // hidden numbers of a column at a time

// The layers' weights (H, C) and (D, H), and biases; what their results are multiplied by, (D), and added to.
struct Layers {
  const float *first, *first_bias, *second, *second_bias, *scale, *residual;
  int64_t channels, hidden, outputs;
};

// One run of columns: their channels, and what some hidden numbers add to their results.
template <int lanes>
void add_hidden(const Layers &layers, int64_t begin, const float *columns, float *hidden, float *results) {
  constexpr int64_t wide = lanes * kLane;
  const int64_t count = std::min(kHidden, layers.hidden - begin);
  // What fills the last tile up is the last row again.
  const auto rows_of = [](const float *weight, int64_t pitch, int64_t rows) {
    return [=](int64_t row) { return weight + std::min(row, rows - 1) * pitch; };
  };
  const int64_t step = part_of_depth(layers.channels);
  for (int64_t c = 0; c < layers.channels; c += step)
    multiply_rows<lanes>(rows_of(layers.first + begin * layers.channels + c, layers.channels, count), 1, count,
                         columns + c * wide, std::min(step, layers.channels - c), c == 0, layers.first_bias + begin,
                         hidden, wide);
#pragma omp simd
  for (int64_t i = 0; i < count * wide; ++i) hidden[i] = gelu_value(hidden[i]);
  multiply_rows<lanes>(rows_of(layers.second + begin, layers.hidden, layers.outputs), 1, layers.outputs, hidden, count,
                       begin == 0, layers.second_bias, results, wide);
}

// Calls read(first column, count, wide, space) for runs of the columns and write(first column, count, wide, results).
template <typename Read, typename Write>
void each_column(int64_t count, const Layers &layers, Read read, Write write) {
  const int64_t step = kRuns * kColumns, outputs = round_up(layers.outputs, kRows);
  // As many columns for one thread as for another, in whole lanes.
  const int64_t all = parts(count, kLane), blocks = std::min(all, round_up(parts(count, step), omp_get_max_threads()));
  parallel::each(blocks, [&](int64_t block) {
    const int64_t first = block * all / blocks * kLane;
    const int64_t size = std::min(count, (block + 1) * all / blocks * kLane) - first;
    float *columns = scratch(step * (layers.channels + outputs) + kColumns * kHidden);
    float *results = columns + step * layers.channels, *hidden = results + step * outputs;
    each_run(size, [&](int64_t run, auto lanes) {
      const int64_t wide = lanes * kLane;
      read(first + run, std::min(wide, size - run), wide, columns + run * layers.channels);
    });
    for (int64_t begin = 0; begin < layers.hidden; begin += kHidden)
      each_run(size, [&](int64_t run, auto lanes) {
        add_hidden<lanes>(layers, begin, columns + run * layers.channels, hidden, results + run * outputs);
      });
    each_run(size, [&](int64_t run, auto lanes) {
      const int64_t wide = lanes * kLane;
      write(first + run, std::min(wide, size - run), wide, results + run * outputs);
    });
  });
}

// tensors: x, weight (H, C, ...), bias (H), weight (D, H, ...), bias (D), scale (D, ...), residual, result
Layers layers_of(void **tensors, int64_t **dimensions) {
  const auto at = [&](int i) { return static_cast<float *>(tensors[i]); };
  return {at(1), at(2), at(3), at(4), at(5), at(6), dimensions[1][1], dimensions[1][0], dimensions[3][0]};
}

}  // namespace

#define OPERATOR(name) \
  extern "C" int name(int, void **tensors, int *ranks, int64_t **dimensions, const char **, void *, void *)

// x (B, C, H, W), residual and result (B, D, H, W)
OPERATOR(pointwise_mlp) {
  const Layers layers = layers_of(tensors, dimensions);
  const float *maps = static_cast<float *>(tensors[0]);
  float *result = static_cast<float *>(tensors[7]);
  const int64_t pixels = dimensions[0][2] * dimensions[0][3];
  each_column(
      dimensions[0][0] * pixels, layers,
      [&](int64_t first, int64_t count, int64_t wide, float *columns) {
        if (first % pixels + count <= pixels) {
          const float *from = maps + first / pixels * layers.channels * pixels + first % pixels;
          return pack(from, pixels, 1, layers.channels, count, columns, wide);
        }
        std::fill_n(columns, layers.channels * wide, 0.f);
        each_row_part(first, count, pixels, [&](int64_t image, int64_t pixel, int64_t place, int64_t length) {
          for (int64_t c = 0; c < layers.channels; ++c)
            std::copy_n(maps + (image * layers.channels + c) * pixels + pixel, length, columns + c * wide + place);
        });
      },
      [&](int64_t first, int64_t count, int64_t wide, const float *results) {
        each_row_part(first, count, pixels, [&](int64_t image, int64_t pixel, int64_t place, int64_t length) {
          for (int64_t d = 0; d < layers.outputs; ++d) {
            const int64_t to = (image * layers.outputs + d) * pixels + pixel;
            const float *from = results + d * wide + place;
            for (int64_t i = 0; i < length; ++i)
              result[to + i] = layers.residual[to + i] + layers.scale[d] * from[i];
          }
        });
      });
  return 0;
}

// x (..., C), residual and result (..., D)
OPERATOR(dense_mlp) {
  const Layers layers = layers_of(tensors, dimensions);
  const float *x = static_cast<float *>(tensors[0]);
  float *result = static_cast<float *>(tensors[7]);
  each_column(
      rows_of(dimensions[0], ranks[0]), layers,
      [&](int64_t first, int64_t count, int64_t wide, float *columns) {
        pack(x + first * layers.channels, 1, layers.channels, layers.channels, count, columns, wide);
      },
      [&](int64_t first, int64_t count, int64_t wide, const float *results) {
        float *to = result + first * layers.outputs;
        const float *residual = layers.residual + first * layers.outputs;
        if (layers.outputs % kLane == 0) {
          pack(results, 1, wide, count, layers.outputs, to, layers.outputs);
          for (int64_t i = 0; i < count; ++i, to += layers.outputs, residual += layers.outputs)
            for (int64_t d = 0; d < layers.outputs; ++d) to[d] = residual[d] + layers.scale[d] * to[d];
          return;
        }
        for (int64_t i = 0; i < count; ++i, to += layers.outputs, residual += layers.outputs)
          for (int64_t d = 0; d < layers.outputs; ++d) to[d] = residual[d] + layers.scale[d] * results[d * wide + i];
      });
  return 0;
}
