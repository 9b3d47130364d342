// Greedy non-maximum suppression on the CPU, for ops.Custom ("aot").

#include <algorithm>
#include <cstdint>

#include "parallel.h"

// tensors: boxes (B, R, 4) in descending order of score, threshold (1); 1 for boxes that stay, 0 for others (B, R)
extern "C" int suppress(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {
  const float *all = static_cast<float *>(tensors[0]), threshold = *static_cast<float *>(tensors[1]);
  float *result = static_cast<float *>(tensors[2]);
  const int64_t images = dimensions[0][0], rows = dimensions[0][1];
  parallel::each(images, [&](int64_t image) {
    const float *boxes = all + image * rows * 4;
    float *kept = result + image * rows;
    std::fill_n(kept, rows, 1.f);
    for (int64_t i = 0; i < rows; ++i) {
      if (kept[i] == 0.f) continue;
      const float *a = boxes + 4 * i, area = (a[2] - a[0]) * (a[3] - a[1]);
      for (int64_t j = i + 1; j < rows; ++j) {
        const float *b = boxes + 4 * j;
        const float width = std::max(std::min(a[2], b[2]) - std::max(a[0], b[0]), 0.f);
        const float height = std::max(std::min(a[3], b[3]) - std::max(a[1], b[1]), 0.f);
        const float common = width * height;
        if (common > threshold * (area + (b[2] - b[0]) * (b[3] - b[1]) - common)) kept[j] = 0.f;
      }
    }
  });
  return 0;
}
