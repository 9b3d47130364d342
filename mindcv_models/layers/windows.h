// Square windows of maps of tokens, (B, H, W, channels) row by row; H and W are multiples of their side.

#pragma once

#include <cstdint>

namespace {

struct Windows {
  Windows(const int64_t *shape, int64_t side)
      : side(side), rows(shape[0] * shape[1] / side), columns(shape[2] / side) {}

  int64_t count() const { return rows * columns; }

  // Calls function(numbers of the window, numbers of the map, how many) for each row of window i; a token has `width`.
  template <typename Function>
  void each_row(int64_t i, int64_t width, Function function) const {
    const int64_t run = side * width;
    for (int64_t y = 0; y < side; ++y) function(y * run, ((i / columns * side + y) * columns + i % columns) * run, run);
  }

  int64_t side, rows, columns;
};

}  // namespace
