// What a mask head is to answer, from packed crops of masks, on the CPU, for ops.Custom ("aot").

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../layers/parallel.h"

namespace {

// The samples of an axis: the bin of each, its cell and the share of the next cell; of `outputs` bins over `cells`.
struct Samples {
  std::vector<int64_t> cell;
  std::vector<float> share;
  int64_t per_bin;
};

Samples samples_of(float from, float to, int64_t outputs, int64_t cells) {
  Samples samples;
  const float size = to - from, begin = from - 0.5f, bin = size / outputs;
  samples.per_bin = size > 0 ? static_cast<int64_t>(std::ceil(bin)) : 0;
  for (int64_t i = 0; i < outputs; ++i) {
    for (int64_t s = 0; s < samples.per_bin; ++s) {
      float place = begin + i * bin + (s + 0.5f) * bin / samples.per_bin;
      const bool inside = place >= -1.f && place <= static_cast<float>(cells);
      place = std::min(std::max(place, 0.f), static_cast<float>(cells - 1));
      samples.cell.push_back(inside ? static_cast<int64_t>(place) : -2);
      samples.share.push_back(place - static_cast<int64_t>(place));
    }
  }
  return samples;
}

struct Crop {
  float at(int64_t y, int64_t x) const {
    y -= top, x -= left;
    if (y < 0 || y >= height || x < 0 || x >= width) return 0.f;
    return bits[y * ((width + 7) / 8) + x / 8] >> (7 - x % 8) & 1;
  }
  const uint8_t *bits;
  int64_t left, top, width, height;
};

void target_of(const float *box, const Crop &crop, const float *size, int64_t side, float *target) {
  const Samples y = samples_of(box[1], box[3], side, static_cast<int64_t>(size[0]));
  const Samples x = samples_of(box[0], box[2], side, static_cast<int64_t>(size[1]));
  for (int64_t i = 0; i < side; ++i) {
    for (int64_t j = 0; j < side; ++j) {
      float sum = 0;
      for (int64_t s = i * y.per_bin; s < (i + 1) * y.per_bin; ++s) {
        if (y.cell[s] < 0) continue;
        for (int64_t t = j * x.per_bin; t < (j + 1) * x.per_bin; ++t) {
          if (x.cell[t] < 0) continue;
          const int64_t row = y.cell[s], column = x.cell[t];
          const float below = y.share[s], right = x.share[t];
          sum += (1 - below) * ((1 - right) * crop.at(row, column) + right * crop.at(row, column + 1)) +
                 below * ((1 - right) * crop.at(row + 1, column) + right * crop.at(row + 1, column + 1));
        }
      }
      const float count = static_cast<float>(y.per_bin * x.per_bin);
      target[i * side + j] = count > 0 && sum / count >= 0.5f ? 1.f : 0.f;
    }
  }
}

}  // namespace

// tensors: regions (B, P, 4), owners (B, P) int32, crops (B, K) uint8, places (B, G, 5) int32, sizes of the bitmaps
// (B, 2); targets (B, P, side, side)
extern "C" int mask_targets(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {
  const float *regions = static_cast<float *>(tensors[0]), *sizes = static_cast<float *>(tensors[4]);
  const int32_t *owners = static_cast<int32_t *>(tensors[1]), *places = static_cast<int32_t *>(tensors[3]);
  const uint8_t *crops = static_cast<uint8_t *>(tensors[2]);
  float *targets = static_cast<float *>(tensors[5]);
  const int64_t rows = dimensions[0][1], side = dimensions[5][2];
  parallel::each(dimensions[0][0] * rows, [&](int64_t n) {
    const int64_t image = n / rows;
    const int32_t *place = places + (image * dimensions[3][1] + owners[n]) * 5;
    const Crop crop{crops + image * dimensions[2][1] + place[0], place[1], place[2], place[3], place[4]};
    target_of(regions + 4 * n, crop, sizes + 2 * image, side, targets + n * side * side);
  });
  return 0;
}
