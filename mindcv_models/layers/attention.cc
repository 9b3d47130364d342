// Multi-head self-attention of float32 tokens and its gradient on the CPU, for ops.Custom ("aot").
//
// Queries, keys and values are read where the linear layer before put them, (N, L, 3 * heads * D). A thread computes a
// head of a sequence at a time, so that its scores stay in the caches, and no sum is split between threads.

#include <cmath>

#include "parallel.h"
#include "power.h"
#include "tiles.h"

namespace {

// e^x for x <= 0; NaN stays.
inline float exponential(float x) {
  const float power = power_of_two((x > -87.f ? x : -87.f) * 1.44269504088896341f);  // log2(e)
  return x == x ? power : x;
}

// Rows of numbers: the one in row i and column j is data[i * row + j * column].
struct Rows {
  const float *data;
  int64_t row, column;
};

// to = factor * left * right, (rows, depth) by (depth, columns); `panels` has space for the right factor.
void product(const Rows &left, const Rows &right, int64_t rows, int64_t depth, int64_t columns, float factor, float *to,
             int64_t pitch, float *panels) {
  each_run(columns, [&](int64_t first, auto lanes) {
    const int64_t wide = std::min<int64_t>(lanes * kLane, columns - first);
    pack(right.data + first * right.column, right.row, right.column, depth, wide, panels, lanes * kLane);
    for (int64_t i = 0; i < rows; i += kRows) {
      const int64_t high = std::min<int64_t>(kRows, rows - i);
      const float *sources[kRows];
      for (int64_t r = 0; r < kRows; ++r) sources[r] = left.data + (i + std::min(r, high - 1)) * left.row;
      Lane sums[kRows][lanes] = {};
      multiply<lanes>(
          depth, [&](int r, int64_t k) { return sources[r][k * left.column]; },
          [=](int64_t k, int c) { return panels + (k * lanes + c) * kLane; }, sums);
      float tile[kRows * lanes * kLane];
      store<lanes>(sums, tile, lanes * kLane);
      for (int64_t r = 0; r < high; ++r)
        for (int64_t c = 0; c < wide; ++c) to[(i + r) * pitch + first + c] = factor * tile[r * lanes * kLane + c];
    }
  });
}

// Turns scores into shares, which add up to 1; `bias` may be missing.
void softmax(float *scores, const float *bias, int64_t length) {
  if (bias)
    for (int64_t j = 0; j < length; ++j) scores[j] += bias[j];
  float largest = scores[0];
  for (int64_t j = 1; j < length; ++j) largest = scores[j] > largest ? scores[j] : largest;
  for (int64_t j = 0; j < length; ++j) scores[j] = exponential(scores[j] - largest);
  const float factor = 1 / sum(scores, length);
  for (int64_t j = 0; j < length; ++j) scores[j] *= factor;
}

struct Attention {
  // tensors: qkv (N, L, 3 * C), bias (1, heads, L, L) or (1) for none, the number of heads and the scale (2)
  Attention(void **tensors, const int *dimensions, int64_t **shapes)
      : batch(shapes[0][0]), length(shapes[0][1]), channels(shapes[0][2] / 3), qkv(static_cast<float *>(tensors[0])),
        bias(dimensions[1] == 4 ? static_cast<float *>(tensors[1]) : nullptr),
        heads(std::lround(static_cast<float *>(tensors[2])[0])), depth(channels / heads),
        scale(static_cast<float *>(tensors[2])[1]) {}

  // Queries, keys and values of a head: part 0, 1 and 2.
  Rows part(int64_t n, int64_t head, int64_t part) const {
    return {qkv + n * length * 3 * channels + part * channels + head * depth, 3 * channels, 1};
  }
  int64_t square() const { return length * length; }
  int64_t space() const { return 2 * square() + kColumns * std::max(length, depth); }

  void shares(int64_t n, int64_t head, float *to, float *panels) const {
    const Rows keys = part(n, head, 1);
    product(part(n, head, 0), {keys.data, 1, keys.row}, length, depth, length, scale, to, length, panels);
    for (int64_t i = 0; i < length; ++i)
      softmax(to + i * length, bias ? bias + (head * length + i) * length : nullptr, length);
  }

  int64_t batch, length, channels;
  const float *qkv, *bias;
  int64_t heads, depth;
  float scale;
};

Rows transposed(const Rows &rows) { return {rows.data, rows.column, rows.row}; }

}  // namespace

// tensors: qkv, bias, settings, as above; result (N, L, C)
extern "C" int attention(int, void **tensors, int *dimensions, int64_t **shapes, const char **, void *, void *) {
  const Attention a(tensors, dimensions, shapes);
  float *result = static_cast<float *>(tensors[3]);
  parallel::each(a.batch * a.heads, [&](int64_t task) {
    const int64_t n = task / a.heads, head = task % a.heads;
    float *shares = scratch(a.space()), *panels = shares + 2 * a.square();
    a.shares(n, head, shares, panels);
    product({shares, a.length, 1}, a.part(n, head, 2), a.length, a.length, a.depth, 1,
            result + n * a.length * a.channels + head * a.depth, a.channels, panels);
  });
  return 0;
}

// tensors: qkv, bias, settings, gradient of the result; gradients of qkv and bias
extern "C" int attention_gradient(int, void **tensors, int *dimensions, int64_t **shapes, const char **, void *,
                                  void *) {
  const Attention a(tensors, dimensions, shapes);
  const float *gradient = static_cast<float *>(tensors[3]);
  float *to = static_cast<float *>(tensors[4]), *bias_gradient = static_cast<float *>(tensors[5]);
  std::fill_n(bias_gradient, a.bias ? a.heads * a.square() : 1, 0.f);
  parallel::each(a.heads, [&](int64_t head) {
    float *shares = scratch(a.space()), *slopes = shares + a.square(), *panels = slopes + a.square();
    for (int64_t n = 0; n < a.batch; ++n) {  // not by several threads: the bias has one gradient for all sequences
      const Rows out{gradient + n * a.length * a.channels + head * a.depth, a.channels, 1};
      const Rows queries = a.part(n, head, 0), keys = a.part(n, head, 1), values = a.part(n, head, 2);
      const auto write = [&](const Rows &left, const Rows &right, int64_t part, float factor) {
        product(left, right, a.length, a.length, a.depth, factor,
                to + (a.part(n, head, part).data - a.qkv), 3 * a.channels, panels);
      };
      a.shares(n, head, shares, panels);
      product(out, transposed(values), a.length, a.depth, a.length, 1, slopes, a.length, panels);
      for (int64_t i = 0; i < a.length; ++i) {
        float *slope = slopes + i * a.length;
        const float *share = shares + i * a.length;
        for (int64_t j = 0; j < a.length; ++j) slope[j] *= share[j];
        const float total = sum(slope, a.length);
        for (int64_t j = 0; j < a.length; ++j) slope[j] -= total * share[j];
      }
      if (a.bias)
        for (int64_t i = 0; i < a.square(); ++i) bias_gradient[head * a.square() + i] += slopes[i];
      const Rows slope{slopes, a.length, 1}, share{shares, a.length, 1};
      write(slope, keys, 0, a.scale);
      write(transposed(slope), queries, 1, a.scale);
      write(transposed(share), out, 2, 1);
    }
  });
  return 0;
}
