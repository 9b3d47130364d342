// Multi-head attention of float32 tokens and its gradient on the CPU, for ops.Custom ("aot").
//
// Queries, keys and values are read where the linear layers before put them. A thread computes a head of a sequence at
// a time, some of its queries after others, so that their scores stay in the caches; no sum is split between threads.

#include <cmath>

#include "parallel.h"
#include "power.h"
#include "tiles.h"
#include "windows.h"

namespace {

constexpr int64_t kQueries = 64;  // of a head, whose scores are kept at a time

// e^x for x <= 0; NaN stays.
inline float exponential(float x) {
  const float power = power_of_two((x > -87.f ? x : -87.f) * 1.44269504088896341f);  // log2(e)
  return x == x ? power : x;
}

// Rows of numbers: the one in row i and column j is data[i * row + j * column].
struct Rows {
  Rows from(int64_t i) const { return {data + i * row, row, column}; }
  Rows transposed() const { return {data, column, row}; }
  float *data;
  int64_t row, column;
};

// to = factor * left * right, (rows, depth) by (depth, columns), or with `add` that much more; `panels` has space for
// the right factor.
void product(const Rows &left, const Rows &right, int64_t rows, int64_t depth, int64_t columns, float factor, bool add,
             float *to, int64_t pitch, float *panels) {
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
      for (int64_t r = 0; r < high; ++r) {
        const float *from = tile + r * lanes * kLane;
        float *at = to + (i + r) * pitch + first;
        if (add) for (int64_t c = 0; c < wide; ++c) at[c] += factor * from[c];
        else for (int64_t c = 0; c < wide; ++c) at[c] = factor * from[c];
      }
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

// Turns gradients of shares into those of scores.
void softmax_gradient(const float *shares, int64_t length, float *slopes) {
  for (int64_t j = 0; j < length; ++j) slopes[j] *= shares[j];
  const float total = sum(slopes, length);
  for (int64_t j = 0; j < length; ++j) slopes[j] -= total * shares[j];
}

// Queries, keys or values of all sequences, or results, or gradients of those.
struct Tokens {
  Rows of(int64_t n, int64_t head, int64_t depth) const { return {data + n * sequence + head * depth, token, 1}; }
  float *data;
  int64_t token, sequence;  // from one to the next
};

struct Parts {
  Tokens queries, keys, values;
};

// Those of a tensor (N, length, 3 * channels).
Parts parts_of(float *qkv, int64_t length, int64_t channels) {
  const auto part = [=](int k) { return Tokens{qkv + k * channels, 3 * channels, 3 * channels * length}; };
  return {part(0), part(1), part(2)};
}

// Those of tensors (N, length, channels) and (N, others, 2 * channels).
Parts parts_of(float *q, float *kv, int64_t length, int64_t others, int64_t channels) {
  const auto part = [=](int k) { return Tokens{kv + k * channels, 2 * channels, 2 * channels * others}; };
  return {{q, channels, channels * length}, part(0), part(1)};
}

Tokens tokens_of(float *data, int64_t length, int64_t channels) { return {data, channels, channels * length}; }

// `length` queries of each head of a sequence attend to `others` keys.
struct Attention {
  // settings: the number of heads and the scale; bias: (heads, length, others), or null
  Attention(const Parts &tokens, const float *settings, const float *bias, int64_t length, int64_t others,
            int64_t channels)
      : tokens(tokens), bias(bias), length(length), others(others), heads(std::lround(settings[0])),
        depth(channels / heads), scale(settings[1]) {}

  int64_t kept() const { return std::min(length, kQueries) * others; }
  int64_t space() const { return 2 * kept() + kColumns * std::max({length, others, depth}); }

  void shares(const Rows &queries, const Rows &keys, const float *biases, int64_t count, float *to,
              float *panels) const {
    product(queries, keys.transposed(), count, depth, others, scale, false, to, others, panels);
    for (int64_t i = 0; i < count; ++i) softmax(to + i * others, biases ? biases + i * others : nullptr, others);
  }

  const float *bias_of(int64_t head, int64_t query) const {
    return bias ? bias + (head * length + query) * others : nullptr;
  }

  // Calls function(first, count) for some queries after others.
  template <typename Function>
  void each_queries(Function function) const {
    for (int64_t first = 0; first < length; first += kQueries) function(first, std::min(kQueries, length - first));
  }

  // The result of a head of sequence n; `space` has space() numbers.
  void attend(int64_t n, int64_t head, const Tokens &results, float *space) const {
    float *scores = space, *panels = scores + 2 * kept();
    const Rows queries = tokens.queries.of(n, head, depth), keys = tokens.keys.of(n, head, depth);
    const Rows values = tokens.values.of(n, head, depth), result = results.of(n, head, depth);
    each_queries([&](int64_t first, int64_t count) {
      shares(queries.from(first), keys, bias_of(head, first), count, scores, panels);
      product({scores, others, 1}, values, count, others, depth, 1, false, result.from(first).data, result.row, panels);
    });
  }

  // The gradients of a head of sequence n; that of the bias is added to `bias_gradient`, if there is a bias.
  void differentiate(int64_t n, int64_t head, const Tokens &gradient, const Parts &gradients, float *bias_gradient,
                     float *space) const {
    float *scores = space, *slopes = scores + kept(), *panels = slopes + kept();
    const Rows queries = tokens.queries.of(n, head, depth), keys = tokens.keys.of(n, head, depth);
    const Rows values = tokens.values.of(n, head, depth), outs = gradient.of(n, head, depth);
    const Rows query_gradients = gradients.queries.of(n, head, depth);
    const Rows key_gradients = gradients.keys.of(n, head, depth);
    const Rows value_gradients = gradients.values.of(n, head, depth);
    each_queries([&](int64_t first, int64_t count) {
      const Rows share{scores, others, 1}, slope{slopes, others, 1};
      const Rows query = queries.from(first), out = outs.from(first);
      shares(query, keys, bias_of(head, first), count, scores, panels);
      product(out, values.transposed(), count, depth, others, 1, false, slopes, others, panels);
      for (int64_t i = 0; i < count; ++i) softmax_gradient(scores + i * others, others, slopes + i * others);
      if (bias)
        for (int64_t i = 0; i < count * others; ++i) bias_gradient[(head * length + first) * others + i] += slopes[i];
      const Rows to = query_gradients.from(first);
      product(slope, keys, count, others, depth, scale, false, to.data, to.row, panels);
      const auto write = [&](const Rows &left, const Rows &right, float factor, const Rows &result) {
        product(left.transposed(), right, others, count, depth, factor, first > 0, result.data, result.row, panels);
      };
      write(slope, query, scale, key_gradients);
      write(share, out, 1, value_gradients);
    });
  }

  Parts tokens;
  const float *bias;
  int64_t length, others, heads, depth;
  float scale;
};

// result: (N, length, channels)
void attend_all(const Attention &a, int64_t batch, float *result) {
  parallel::each(batch * a.heads, [&](int64_t task) {
    a.attend(task / a.heads, task % a.heads, tokens_of(result, a.length, a.heads * a.depth), scratch(a.space()));
  });
}

// A bias has one gradient for all sequences, which no two threads may add to.
void differentiate_all(const Attention &a, int64_t batch, float *gradient, const Parts &gradients,
                       float *bias_gradient) {
  const Tokens outs = tokens_of(gradient, a.length, a.heads * a.depth);
  const int64_t together = a.bias ? batch : 1;
  parallel::each(batch / together * a.heads, [&](int64_t task) {
    for (int64_t k = 0; k < together; ++k)
      a.differentiate(task / a.heads * together + k, task % a.heads, outs, gradients, bias_gradient,
                      scratch(a.space()));
  });
}

// tensors: qkv (N, L, 3 * C), bias (1, heads, L, L) or (1) for none, the number of heads and the scale (2)
struct SelfAttention : Attention {
  SelfAttention(float **tensors, const int *dimensions, int64_t **shapes)
      : Attention(parts_of(tensors[0], shapes[0][1], shapes[0][2] / 3), tensors[2],
                  dimensions[1] == 4 ? tensors[1] : nullptr, shapes[0][1], shapes[0][1], shapes[0][2] / 3) {}
};

// tensors: q (N, L, C), kv (N, M, 2 * C), the number of heads and the scale (2)
struct CrossAttention : Attention {
  CrossAttention(float **tensors, int64_t **shapes)
      : Attention(parts_of(tensors[0], tensors[1], shapes[0][1], shapes[1][1], shapes[0][2]), tensors[2], nullptr,
                  shapes[0][1], shapes[1][1], shapes[0][2]) {}
};

// tensors: qkv (B, H, W, 3 * C), the number of heads, the scale and the side of a window (3)
struct WindowAttention {
  WindowAttention(float **tensors, int64_t **shapes)
      : qkv(tensors[0]), settings(tensors[1]), windows(shapes[0], std::lround(settings[2])),
        length(windows.side * windows.side), channels(shapes[0][3] / 3) {}

  // Copies of a window's tokens of a map, and back.
  void read(int64_t i, int64_t width, const float *map, float *window) const {
    windows.each_row(i, width, [=](int64_t at, int64_t from, int64_t run) {
      std::copy_n(map + from, run, window + at);
    });
  }
  void write(int64_t i, int64_t width, const float *window, float *map) const {
    windows.each_row(i, width, [=](int64_t at, int64_t to, int64_t run) { std::copy_n(window + at, run, map + to); });
  }

  Attention within(float *window) const {
    return {parts_of(window, length, channels), settings, nullptr, length, length, channels};
  }
  Tokens tokens(float *data) const { return tokens_of(data, length, channels); }

  // Calls function(i, attention within window i, its space, `spare` times as many numbers as the window's results).
  template <typename Function>
  void each(int64_t spare, Function function) const {
    const int64_t needed = within(nullptr).space(), size = length * channels;
    parallel::each(windows.count(), [&](int64_t i) {
      float *space = scratch(needed + (3 + spare) * size), *window = space + needed;
      read(i, 3 * channels, qkv, window);
      function(i, within(window), space, window + 3 * size);
    });
  }

  const float *qkv, *settings;
  Windows windows;
  int64_t length, channels;
};

}  // namespace

// tensors: those of SelfAttention, result (N, L, C)
extern "C" int attention(int, void **tensors, int *dimensions, int64_t **shapes, const char **, void *, void *) {
  float **data = reinterpret_cast<float **>(tensors);
  const SelfAttention a(data, dimensions, shapes);
  attend_all(a, shapes[0][0], data[3]);
  return 0;
}

// tensors: those of SelfAttention, gradient of the result; gradients of qkv and bias
extern "C" int attention_gradient(int, void **tensors, int *dimensions, int64_t **shapes, const char **, void *,
                                  void *) {
  float **data = reinterpret_cast<float **>(tensors);
  const SelfAttention a(data, dimensions, shapes);
  std::fill_n(data[5], a.bias ? a.heads * a.length * a.others : 1, 0.f);
  differentiate_all(a, shapes[0][0], data[3], parts_of(data[4], a.length, a.heads * a.depth), data[5]);
  return 0;
}

// tensors: those of CrossAttention, result (N, L, C)
extern "C" int cross_attention(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  float **data = reinterpret_cast<float **>(tensors);
  attend_all(CrossAttention(data, shapes), shapes[0][0], data[3]);
  return 0;
}

// tensors: those of CrossAttention, gradient of the result; gradients of q and kv
extern "C" int cross_attention_gradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  float **data = reinterpret_cast<float **>(tensors);
  const CrossAttention a(data, shapes);
  const Parts gradients = parts_of(data[4], data[5], a.length, a.others, a.heads * a.depth);
  differentiate_all(a, shapes[0][0], data[3], gradients, nullptr);
  return 0;
}

// tensors: those of WindowAttention, result (B, H, W, C)
extern "C" int window_attention(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  float **data = reinterpret_cast<float **>(tensors);
  const WindowAttention w(data, shapes);
  w.each(1, [&](int64_t i, const Attention &a, float *space, float *result) {
    for (int64_t head = 0; head < a.heads; ++head) a.attend(0, head, w.tokens(result), space);
    w.write(i, w.channels, result, data[2]);
  });
  return 0;
}

// tensors: those of WindowAttention, gradient of the result; gradient of qkv
extern "C" int window_attention_gradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  float **data = reinterpret_cast<float **>(tensors);
  const WindowAttention w(data, shapes);
  w.each(4, [&](int64_t i, const Attention &a, float *space, float *out) {
    float *to = out + w.length * w.channels;
    w.read(i, w.channels, data[2], out);
    const Parts gradients = parts_of(to, w.length, w.channels);
    for (int64_t head = 0; head < a.heads; ++head)
      a.differentiate(0, head, w.tokens(out), gradients, nullptr, space);
    w.write(i, 3 * w.channels, to, data[3]);
  });
  return 0;
}
