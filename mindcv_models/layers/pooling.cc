// Means over the windows of maps of float32 tokens, and their gradient, on the CPU, for ops.Custom ("aot").

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "parallel.h"

namespace {

// tensors: maps (B, H, W, C), the side of a window (1)
struct Windows {
  Windows(void **tensors, int64_t **shapes)
      : side(std::lround(*static_cast<float *>(tensors[1]))), width(shapes[0][2]), channels(shapes[0][3]),
        rows(shapes[0][0] * shapes[0][1] / side), run(width / side * channels), factor(1.f / (side * side)) {}

  // Calls function(where a token's numbers are, where those of its window are) for a row of windows.
  template <typename Function>
  void each_token(int64_t row, Function function) const {
    for (int64_t y = row * side; y < (row + 1) * side; ++y)
      for (int64_t x = 0; x < width; ++x) function((y * width + x) * channels, row * run + x / side * channels);
  }

  int64_t side, width, channels, rows, run;  // `run` numbers in the means of a row of windows
  float factor;
};

}  // namespace

// tensors: those of Windows, means (B, H * W / side^2, C)
extern "C" int window_means(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  const Windows windows(tensors, shapes);
  const float *maps = static_cast<float *>(tensors[0]);
  float *means = static_cast<float *>(tensors[2]);
  parallel::each(windows.rows, [&](int64_t row) {
    std::fill_n(means + row * windows.run, windows.run, 0.f);
    windows.each_token(row, [&](int64_t token, int64_t mean) {
      for (int64_t c = 0; c < windows.channels; ++c) means[mean + c] += windows.factor * maps[token + c];
    });
  });
  return 0;
}

// tensors: those of Windows, gradient of the means, gradient of the maps
extern "C" int window_means_gradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  const Windows windows(tensors, shapes);
  const float *gradient = static_cast<float *>(tensors[2]);
  float *to = static_cast<float *>(tensors[3]);
  parallel::each(windows.rows, [&](int64_t row) {
    windows.each_token(row, [&](int64_t token, int64_t mean) {
      for (int64_t c = 0; c < windows.channels; ++c) to[token + c] = windows.factor * gradient[mean + c];
    });
  });
  return 0;
}
