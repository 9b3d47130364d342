// Means over the windows of maps of float32 tokens, and their gradient, on the CPU, for ops.Custom ("aot").

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "parallel.h"
#include "windows.h"

namespace {

// Calls function(a number of the map, the number of the means that it adds to, its share) in order.
// tensors: maps (B, H, W, C), the side of a window (1)
template <typename Function>
void each_number(void **tensors, int64_t **shapes, Function function) {
  const Windows windows(shapes[0], std::lround(*static_cast<float *>(tensors[1])));
  const int64_t channels = shapes[0][3];
  const float share = 1.f / (windows.side * windows.side);
  parallel::each(windows.count(), [&](int64_t i) {
    windows.each_row(i, channels, [&](int64_t, int64_t from, int64_t run) {
      for (int64_t x = 0; x < run; x += channels)
        for (int64_t c = 0; c < channels; ++c) function(from + x + c, i * channels + c, share);
    });
  });
}

}  // namespace

// tensors: those of each_number, means (B, H * W / side^2, C)
extern "C" int window_means(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  const float *maps = static_cast<float *>(tensors[0]);
  float *means = static_cast<float *>(tensors[2]);
  std::fill_n(means, shapes[2][0] * shapes[2][1] * shapes[2][2], 0.f);
  each_number(tensors, shapes, [=](int64_t from, int64_t to, float share) { means[to] += share * maps[from]; });
  return 0;
}

// tensors: those of each_number, gradient of the means, gradient of the maps
extern "C" int window_means_gradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  const float *gradient = static_cast<float *>(tensors[2]);
  float *to = static_cast<float *>(tensors[3]);
  each_number(tensors, shapes, [=](int64_t map, int64_t mean, float share) { to[map] = share * gradient[mean]; });
  return 0;
}
