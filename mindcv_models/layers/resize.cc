// Bilinear enlargement and reduction of float32 maps and its gradient on the CPU, for ops.Custom ("aot").
//
// A map's rows are mixed before its columns, so that only half of the work reads single numbers. A map is the work of
// one thread, so that no sum is split between threads.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bilinear.h"
#include "parallel.h"

// tensors: maps (B, C, h, w), another tensor, result (B, C, H, W)
extern "C" int resize(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  const float *maps = static_cast<float *>(tensors[0]);
  float *result = static_cast<float *>(tensors[2]);
  const Sizes s(shapes[0] + 2, shapes[2] + 2);
  parallel::each_range(shapes[0][0] * shapes[0][1], [&](int64_t first, int64_t end) {
    std::vector<float> mixed(s.width);
    for (int64_t k = first; k < end; ++k) {
      for (int64_t y = 0; y < s.rows; ++y)
        enlarge_row(maps + k * s.height * s.width, s, y, mixed.data(), result + (k * s.rows + y) * s.columns);
    }
  });
  return 0;
}

// tensors: gradient of the result, maps (for their shape), gradient of maps
extern "C" int resize_gradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  const float *gradient = static_cast<float *>(tensors[0]);
  float *to = static_cast<float *>(tensors[2]);
  const Sizes s(shapes[2] + 2, shapes[0] + 2);
  parallel::each_range(shapes[2][0] * shapes[2][1], [&](int64_t first, int64_t end) {
    std::vector<float> mixed(s.height * s.columns);
    for (int64_t k = first; k < end; ++k) {
      std::fill(mixed.begin(), mixed.end(), 0.f);
      for (int64_t y = 0; y < s.rows; ++y)
        spread_row(gradient + (k * s.rows + y) * s.columns, s, y, 0, s.height, mixed.data());
      for (int64_t y = 0; y < s.height; ++y)
        narrow_row(mixed.data() + y * s.columns, s, to + (k * s.height + y) * s.width);
    }
  });
  return 0;
}
