// Linear layers and 1x1 convolutions of float32 tensors, their biases and their gradients on the CPU, for ops.Custom
// ("aot").
//
// MindSpore's own products are about as fast, but biases, their gradients and transposed copies are operators of their
// own there. Every number is summed up in one order, so that results do not depend on the number of threads.

#include "parallel.h"
#include "tiles.h"

namespace {

// Tiles below each other and panels beside each other in a block of the result, at most: 256 x 384 numbers, so that it
// stays in the second cache between parts of the depth.
constexpr int64_t kTilesDown = 256 / kRows;
constexpr int64_t kPanels = 384 / kColumns;
constexpr int64_t kSmallMap = 256;  // pixels of a map that is too small for a product of its own

// The number in row i and column j of matrix b is data[b * batch + i * row + j * column].
struct Matrix {
  const float *at(int64_t b, int64_t i, int64_t j) const { return data + b * batch + i * row + j * column; }
  const float *data;
  int64_t row, column, batch;
};

// As Matrix, with adjacent columns; sums start from the bias of their row or of their column, if there is one.
struct Result {
  float *at(int64_t b, int64_t i, int64_t j) const { return data + b * batch + i * row + j; }
  float *data;
  int64_t row, batch;
  const float *row_bias = nullptr, *column_bias = nullptr;
};

struct Size {
  int64_t rows, columns, depth;
  int64_t results = 1, summands = 1;  // matrices of the result; products whose sum it is
};

// The part of a result that a thread computes at a time.
struct Block {
  int64_t b, row, column, rows, columns;
};

// Adds the products of `depth` columns of the left factor from k on and as many rows of the right one, with space for
// copies of both.
void multiply(const Matrix &left, const Matrix &right, const Result &result, const Block &at, int64_t b, int64_t k,
              int64_t depth, bool first, float *panels) {
  each_run(at.columns, [&](int64_t begin, auto lanes) {
    pack(right.at(b, k, at.column + begin), right.row, right.column, depth,
         std::min<int64_t>(lanes * kLane, at.columns - begin), panels + begin * depth, lanes * kLane);
  });
  Matrix rows{left.at(b, at.row, k), left.row, left.column, 0};
  if (left.column != 1) {  // adjacent numbers of a row may lie in different pages
    const int64_t height = round_up(at.rows, kLane);
    float *copy = panels + round_up(at.columns, kLane) * depth;
    for (int64_t i = 0; i < at.rows; i += kLane)
      pack(rows.at(0, i, 0), left.column, left.row, depth, std::min<int64_t>(kLane, at.rows - i), copy + i, height);
    rows = {copy, 1, height, 0};
  }
  for (int64_t i = 0; i < at.rows; i += kRows) {
    const int64_t row = at.row + i, high = std::min<int64_t>(kRows, at.rows - i);
    const float *sources[kRows];
    Start start{};
    for (int64_t r = 0; r < kRows; ++r) {
      sources[r] = rows.at(0, i + std::min(r, high - 1), 0);
      if (result.row_bias) start.rows[r] = result.row_bias[row + std::min(r, high - 1)];
    }
    if (rows.column == 1)
      prefetch(rows.at(0, i + kRows, 0), std::min<int64_t>(kRows, at.rows - i - kRows), rows.row, depth);
    each_run(at.columns, [&](int64_t begin, auto lanes) {
      const int64_t column = at.column + begin, wide = std::min<int64_t>(lanes * kLane, at.columns - begin);
      float *to = result.at(at.b, row, column), edge[kRows * kColumns], bias[kColumns];
      const bool whole = high == kRows && wide == lanes * kLane;
      if (result.column_bias) {
        start.columns = result.column_bias + column;
        if (!whole) start.columns = std::copy_n(start.columns, wide, bias) - wide;
      }
      float *tile = whole ? to : edge;
      const int64_t pitch = whole ? result.row : kColumns;
      if (!whole && !first)
        for (int64_t r = 0; r < high; ++r) std::copy_n(to + r * result.row, wide, edge + r * kColumns);
      add<lanes>(sources, rows.column, panels + begin * depth, depth, tile, pitch, first ? &start : nullptr);
      if (!whole)
        for (int64_t r = 0; r < high; ++r) std::copy_n(edge + r * kColumns, wide, to + r * result.row);
    });
  }
}

// result = left * right + bias: one product for each matrix of the result, or the sum of several.
void multiply(const Size &size, const Matrix &left, const Matrix &right, const Result &result) {
  const int64_t tiles = parts(size.rows, kRows), panels = parts(size.columns, kColumns);
  int64_t down = parts(tiles, kTilesDown), across = parts(panels, kPanels);
  // As many blocks for one thread as for another, and two at least.
  const int64_t wanted = round_up(size.results * down * across, 2 * omp_get_max_threads());
  const auto split = [&](int64_t &count, int64_t other, int64_t most) {
    count = std::max(count, std::min(most, parts(wanted, size.results * other)));
  };
  if (size.rows > size.columns) split(down, across, tiles), split(across, down, panels);
  else split(across, down, panels), split(down, across, tiles);
  const int64_t height = parts(tiles, down) * kRows, heights = parts(size.rows, height);
  const int64_t width = parts(panels, across) * kColumns, widths = parts(size.columns, width);
  const int64_t depth = part_of_depth(size.depth);
  parallel::each(size.results * heights * widths, [&](int64_t task) {
    float *space = scratch(depth * (round_up(width, kLane) + round_up(height, kLane)));
    const int64_t row = task / widths % heights * height, column = task % widths * width;
    const Block at{task / widths / heights, row, column, std::min(height, size.rows - row),
                   std::min(width, size.columns - column)};
    for (int64_t s = 0; s < size.summands; ++s)
      for (int64_t k = 0; k < size.depth; k += depth)
        multiply(left, right, result, at, at.b + s, k, std::min(depth, size.depth - k), s == 0 && k == 0, space);
  });
}

// Maps (B, C, H, W) as one matrix for each image, (C, H * W), or as one for all, (C, B * H * W), of small ones.
struct Maps {
  Maps(const int64_t *shape, int64_t channels)
      : images(shape[0]), channels(channels), pixels(shape[2] * shape[3]), together(images > 1 && pixels < kSmallMap) {}

  int64_t matrices() const { return together ? 1 : images; }
  int64_t columns() const { return together ? images * pixels : pixels; }
  // Where the numbers of the matrices lie, or are to be written: in the maps, or in `space` for small ones.
  float *place(float *maps, std::unique_ptr<float[]> &space) const {
    if (!together) return maps;
    space = unset(images * channels * pixels);
    return space.get();
  }
  float *read(float *maps, std::unique_ptr<float[]> &space) const {
    float *to = place(maps, space);
    if (together) each_map([&](int64_t map, int64_t place) { std::copy_n(maps + map, pixels, to + place); });
    return to;
  }
  void write(const std::unique_ptr<float[]> &space, float *maps) const {
    if (together) each_map([&](int64_t map, int64_t place) { std::copy_n(space.get() + place, pixels, maps + map); });
  }

  const int64_t images, channels, pixels;
  const bool together;

 private:
  template <typename Function>
  void each_map(Function function) const {
    parallel::each(channels, [&](int64_t c) {
      for (int64_t b = 0; b < images; ++b) function((b * channels + c) * pixels, (c * images + b) * pixels);
    });
  }
};

// result = weight * maps + bias, where the weight of output d and channel c is weight[d * output + c * channel].
void convolve(const Maps &from, float *maps, const float *weight, int64_t output, int64_t channel, const float *bias,
              const Maps &to, float *result) {
  std::unique_ptr<float[]> space, result_space;
  const int64_t columns = from.columns();
  multiply({to.channels, columns, from.channels, from.matrices()}, {weight, output, channel, 0},
           {from.read(maps, space), columns, 1, from.channels * columns},
           {to.place(result, result_space), columns, to.channels * columns, bias});
  to.write(result_space, result);
}

float *tensor(void **tensors, int index) { return static_cast<float *>(tensors[index]); }

}  // namespace

#define OPERATOR(name) \
  extern "C" int name(int, void **tensors, int *ranks, int64_t **dimensions, const char **, void *, void *)

// tensors: x (..., C), weight (D, C), bias (D), result (..., D)
OPERATOR(dense) {
  const int64_t n = rows_of(dimensions[0], ranks[0]), c = dimensions[1][1], d = dimensions[1][0];
  multiply({n, d, c}, {tensor(tensors, 0), c, 1, 0}, {tensor(tensors, 1), 1, c, 0},
           {tensor(tensors, 3), d, 0, nullptr, tensor(tensors, 2)});
  return 0;
}

// tensors: gradient of the result, weight, x (for its shape), gradient of x
OPERATOR(dense_gradient) {
  const int64_t n = rows_of(dimensions[0], ranks[0]), c = dimensions[1][1], d = dimensions[1][0];
  multiply({n, c, d}, {tensor(tensors, 0), d, 1, 0}, {tensor(tensors, 1), c, 1, 0}, {tensor(tensors, 3), c, 0});
  return 0;
}

// tensors: x, gradient of the result, weight (for its shape), gradients of weight and bias
OPERATOR(dense_weight_gradient) {
  const int64_t n = rows_of(dimensions[0], ranks[0]), c = dimensions[2][1], d = dimensions[2][0];
  const float *gradient = tensor(tensors, 1);
  float *bias_gradient = tensor(tensors, 4);
  multiply({d, c, n}, {gradient, 1, d, 0}, {tensor(tensors, 0), c, 1, 0}, {tensor(tensors, 3), c, 0});
  parallel::each_range(parts(d, kColumns), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kColumns, last = std::min(d, end * kColumns);
    std::fill(bias_gradient + first, bias_gradient + last, 0.f);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = first; j < last; ++j) bias_gradient[j] += gradient[i * d + j];
  });
  return 0;
}

// tensors: maps (B, C, H, W), weight (D, C, ...), bias (D), result (B, D, H, W)
OPERATOR(pointwise) {
  const Maps maps(dimensions[0], dimensions[0][1]), result(dimensions[0], dimensions[1][0]);
  convolve(maps, tensor(tensors, 0), tensor(tensors, 1), maps.channels, 1, tensor(tensors, 2), result,
           tensor(tensors, 3));
  return 0;
}

// tensors: gradient of the result, weight, maps (for their shape), gradient of maps
OPERATOR(pointwise_gradient) {
  const Maps result(dimensions[0], dimensions[0][1]), maps(dimensions[2], dimensions[2][1]);
  convolve(result, tensor(tensors, 0), tensor(tensors, 1), 1, maps.channels, nullptr, maps, tensor(tensors, 3));
  return 0;
}

// tensors: maps, gradient of the result, weight (for its shape), gradients of weight and bias
OPERATOR(pointwise_weight_gradient) {
  const Maps maps(dimensions[0], dimensions[0][1]), result(dimensions[1], dimensions[1][1]);
  std::unique_ptr<float[]> space, result_space;
  const int64_t columns = maps.columns();
  const float *gradient = result.read(tensor(tensors, 1), result_space);
  multiply({result.channels, maps.channels, columns, 1, maps.matrices()},
           {gradient, columns, 1, result.channels * columns},
           {maps.read(tensor(tensors, 0), space), 1, columns, maps.channels * columns},
           {tensor(tensors, 3), maps.channels, 0});
  sum_channels(gradient, maps.matrices(), result.channels, columns, tensor(tensors, 4));
  return 0;
}
