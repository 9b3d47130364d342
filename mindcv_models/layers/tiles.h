// What products of matrices and convolutions on the CPU share: tiles of their results, summed up in vector registers.

#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <type_traits>

#include "parallel.h"

namespace {

// The sums of a tile and what they are summed up from take nearly all registers.
#ifdef __AVX512F__
constexpr int kLane = 16, kRows = 8;
#else
constexpr int kLane = 8, kRows = 4;
#endif
constexpr int kLanes = 3;
constexpr int64_t kColumns = kLanes * kLane;
constexpr int64_t kDepth = 256;  // rows of a panel, at most: with kColumns about what the first cache holds

typedef float Lane __attribute__((vector_size(kLane * sizeof(float)), aligned(sizeof(float)), may_alias));

inline const Lane &lane(const float *from) { return *reinterpret_cast<const Lane *>(from); }
inline Lane &lane(float *at) { return *reinterpret_cast<Lane *>(at); }

inline int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }
inline int64_t round_up(int64_t count, int64_t unit) { return parts(count, unit) * unit; }

// Rows of a panel where `depth` of them are equal parts of at most kDepth.
inline int64_t part_of_depth(int64_t depth) { return parts(depth, parts(depth, kDepth)); }

// Rows of a tensor (..., C).
inline int64_t rows_of(const int64_t *shape, int rank) {
  return std::accumulate(shape, shape + rank - 1, int64_t{1}, std::multiplies<int64_t>());
}

inline std::unique_ptr<float[]> unset(int64_t count) { return std::unique_ptr<float[]>(new float[count]); }

// Numbers that are not set at the start and belong to the thread until it asks for others.
inline float *scratch(int64_t count) {
  static thread_local std::unique_ptr<float[]> space;
  static thread_local int64_t size = 0;
  if (size < count) space = unset(size = count);
  return space.get();
}

inline float sum(const float *values, int64_t count) {
  Lane lanes = {};
  int64_t i = 0;
  for (; i + kLane <= count; i += kLane) lanes += lane(values + i);
  float total = std::accumulate(values + i, values + count, 0.f);
  for (int k = 0; k < kLane; ++k) total += lanes[k];
  return total;
}

// result[c] = the sum of channel c of maps (batch, channels, size).
inline void sum_channels(const float *maps, int64_t batch, int64_t channels, int64_t size, float *result) {
  parallel::each(channels, [&](int64_t c) {
    float total = 0;
    for (int64_t b = 0; b < batch; ++b) total += sum(maps + (b * channels + c) * size, size);
    result[c] = total;
  });
}

// Asks for rows that are read next and too short for the processor to see them coming.
inline void prefetch(const float *rows, int64_t count, int64_t pitch, int64_t depth) {
  for (int64_t r = 0; r < count; ++r)
    for (int64_t c = 0; c < depth; c += 16) __builtin_prefetch(rows + r * pitch + c);
}

// A lane that stays in a register: GCC would read it again for every product of AVX2, which has fewer ports to read
// than it needs for that.
inline Lane in_register(Lane value) {
#ifdef __AVX__
  asm("" : "+v"(value));
#endif
  return value;
}

// sums[r][c] += left(r, k) * the lane at right(k, c), for k from 0 to depth - 1 in this order.
template <int lanes, typename Left, typename Right>
inline void multiply(int64_t depth, Left left, Right right, Lane (&sums)[kRows][lanes]) {
  for (int64_t k = 0; k < depth; ++k) {
    Lane factors[lanes];
#pragma GCC unroll 3
    for (int c = 0; c < lanes; ++c) factors[c] = in_register(lane(right(k, c)));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const float factor = left(r, k);
#pragma GCC unroll 3
      for (int c = 0; c < lanes; ++c) sums[r][c] += factor * factors[c];
    }
  }
}

// sums[r][c] = get(r, c)
template <int lanes, typename Get>
inline void load(Get get, Lane (&sums)[kRows][lanes]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 3
    for (int c = 0; c < lanes; ++c) sums[r][c] = get(r, c);
}

// Writes the sums to rows that are `pitch` apart.
template <int lanes>
inline void store(const Lane (&sums)[kRows][lanes], float *to, int64_t pitch) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 3
    for (int c = 0; c < lanes; ++c) lane(to + r * pitch + c * kLane) = sums[r][c];
}

// What a tile starts from.
struct Start {
  const float *columns;
  float rows[kRows];
};

// Adds `depth` products to a tile of kRows rows that are `pitch` apart; or, the first time, to a bias for each row or
// for each column. The next numbers of the rows of the left factor are `step` apart. A function of its own, so that
// pointers stay in registers.
template <int lanes>
__attribute__((noinline)) void add(const float *const (&left)[kRows], int64_t step, const float *panel, int64_t depth,
                                   float *tile, int64_t pitch, const Start *start) {
  Lane sums[kRows][lanes];
  if (!start) load<lanes>([=](int r, int c) { return lane(tile + r * pitch + c * kLane); }, sums);
  else if (start->columns) load<lanes>([=](int, int c) { return lane(start->columns + c * kLane); }, sums);
  else load<lanes>([=](int r, int) { return Lane{} + start->rows[r]; }, sums);
  multiply<lanes>(
      depth, [&](int r, int64_t k) { return left[r][k * step]; },
      [=](int64_t k, int c) { return panel + (k * lanes + c) * kLane; }, sums);
  store<lanes>(sums, tile, pitch);
}

// Multiplies rows by a panel and adds the products to rows of lanes, `pitch` apart; or, with `start`, to a bias for each
// row, if there is one. A row is `depth` numbers from row_at(row) on, `step` apart. The rows that fill the last tile up
// are read and written like others.
template <int lanes, typename RowAt>
inline void multiply_rows(RowAt row_at, int64_t step, int64_t rows, const float *panel, int64_t depth, bool start,
                          const float *bias, float *to, int64_t pitch) {
  for (int64_t o = 0; o < rows; o += kRows) {
    const float *sources[kRows];
    Start from{};
    for (int64_t r = 0; r < kRows; ++r) {
      sources[r] = row_at(o + r);
      if (bias) from.rows[r] = bias[std::min(o + r, rows - 1)];
    }
    if (step == 1)
      prefetch(row_at(o + kRows), std::min<int64_t>(kRows, rows - o - kRows), row_at(1) - row_at(0), depth);
    add<lanes>(sources, step, panel, depth, to + o * pitch, pitch, start ? &from : nullptr);
  }
}

// Makes rows of the columns of a square: pairs of rows exchange halves, then quarters, and so on.
inline void transpose(Lane (&square)[kLane]) {
  typedef int Indices __attribute__((vector_size(kLane * sizeof(int))));
#pragma GCC unroll 4
  for (int half = kLane / 2; half > 0; half /= 2) {
    Indices low, high;
    for (int i = 0; i < kLane; ++i) {
      low[i] = i & half ? kLane + i - half : i;
      high[i] = i & half ? kLane + i : i + half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLane; ++i) {
      if (i & half) continue;
      const Lane first = square[i], second = square[i + half];
      square[i] = __builtin_shuffle(first, second, low);
      square[i + half] = __builtin_shuffle(first, second, high);
    }
  }
}

// Copies `depth` rows of up to `pitch` columns to a panel, `pitch` from one row to the next; to be read by whole lanes.
inline void pack(const float *from, int64_t row, int64_t column, int64_t depth, int64_t columns, float *panel,
                 int64_t pitch) {
  const int64_t whole = column == 1 ? columns / kLane * kLane : 0;
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t c = 0; c < whole; c += kLane) lane(panel + k * pitch + c) = lane(from + k * row + c);
  for (int64_t first = whole; first < columns; first += kLane) {
    const float *sources[kLane];
    for (int64_t c = 0; c < kLane; ++c) sources[c] = from + std::min(first + c, columns - 1) * column;
    float *to = panel + first;
    int64_t k = 0;
    if (row == 1)
      for (; k + kLane <= depth; k += kLane) {
        Lane square[kLane];
        for (int c = 0; c < kLane; ++c) square[c] = lane(sources[c] + k);
        transpose(square);
        for (int c = 0; c < kLane; ++c) lane(to + (k + c) * pitch) = square[c];
      }
    for (; k < depth; ++k)
      for (int c = 0; c < kLane; ++c) to[k * pitch + c] = sources[c][k * row];
  }
}

// Calls function(row, column, place, length) for the parts of `count` numbers, from the `first` one on, that lie in one
// row of `pitch`; places are counted from the first one.
template <typename Function>
inline void each_row_part(int64_t first, int64_t count, int64_t pitch, Function function) {
  for (int64_t i = 0; i < count;) {
    const int64_t row = (first + i) / pitch, column = (first + i) % pitch;
    const int64_t length = std::min(count - i, pitch - column);
    function(row, column, i, length);
    i += length;
  }
}

// Calls function(first, lanes) for runs of columns; the number of lanes is a constant. A tile of one lane takes longer
// than half of one of two, so that four lanes are two runs of two.
template <typename Function>
inline void each_run(int64_t columns, Function function) {
  for (int64_t first = 0; first < columns;) {
    const int64_t left = parts(columns - first, kLane);
    if (left == 1) function(first, std::integral_constant<int, 1>());
    else if (left == 2 || left == 4) function(first, std::integral_constant<int, 2>());
    else function(first, std::integral_constant<int, 3>());
    first += (left == 4 ? 2 : std::min<int64_t>(left, kLanes)) * kLane;
  }
}

}  // namespace
