// The transforms of Winograd's F(2x2, 3x3) on the CPU (Lavin and Gray, arXiv:1509.09308, section 4.1), for ops.Custom
// ("aot"). Maps are (B, H, W, C) float32; a tile is 4x4 inputs, of which 2x2 outputs are made: larger tiles multiply
// less, but round twenty times as much. Channels are the innermost loop, and no sum is split between threads.

#include <algorithm>
#include <cstdint>

#include "parallel.h"

namespace {

constexpr int64_t kInputs = 4, kOutputs = 2, kPoints = kInputs * kInputs;
constexpr int64_t kLanes = 16;  // channels at a time

using Lanes = float[kLanes];

// B^T along an axis, whose entries are `step` lanes apart.
void input_axis(const Lanes *d, int64_t step, Lanes *out) {
  for (int64_t l = 0; l < kLanes; ++l) {
    out[0][l] = d[0][l] - d[2 * step][l];
    out[step][l] = d[step][l] + d[2 * step][l];
    out[2 * step][l] = d[2 * step][l] - d[step][l];
    out[3 * step][l] = d[step][l] - d[3 * step][l];
  }
}

// A^T along an axis.
void output_axis(const Lanes *m, int64_t step, Lanes *out, int64_t out_step) {
  for (int64_t l = 0; l < kLanes; ++l) {
    out[0][l] = m[0][l] + m[step][l] + m[2 * step][l];
    out[out_step][l] = m[step][l] - m[2 * step][l] - m[3 * step][l];
  }
}

struct Tiles {
  explicit Tiles(const int64_t *map)
      : batch(map[0]), height(map[1]), width(map[2]), rows((height + kOutputs - 1) / kOutputs),
        columns((width + kOutputs - 1) / kOutputs), count(batch * rows * columns) {}
  int64_t batch, height, width, rows, columns, count;
};

}  // namespace

// tensors: maps (B, H, W, C); their tiles (16, tiles, C)
extern "C" int winograd_input(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {
  const Tiles tiles(dimensions[0]);
  const int64_t channels = dimensions[0][3];
  const float *maps = static_cast<float *>(tensors[0]);
  float *result = static_cast<float *>(tensors[1]);
  parallel::each(tiles.count, [&](int64_t t) {
    const int64_t image = t / (tiles.rows * tiles.columns);
    const int64_t top = t / tiles.columns % tiles.rows * kOutputs - 1, left = t % tiles.columns * kOutputs - 1;
    for (int64_t first = 0; first < channels; first += kLanes) {
      const int64_t lanes = std::min(kLanes, channels - first);
      Lanes in[kPoints], half[kPoints], out[kPoints];
      for (int64_t i = 0; i < kPoints; ++i) {
        const int64_t y = top + i / kInputs, x = left + i % kInputs;
        std::fill_n(in[i], kLanes, 0.f);
        if (y < 0 || y >= tiles.height || x < 0 || x >= tiles.width) continue;
        std::copy_n(maps + ((image * tiles.height + y) * tiles.width + x) * channels + first, lanes, in[i]);
      }
      for (int64_t i = 0; i < kInputs; ++i) input_axis(in + i, kInputs, half + i);
      for (int64_t i = 0; i < kInputs; ++i) input_axis(half + i * kInputs, 1, out + i * kInputs);
      for (int64_t i = 0; i < kPoints; ++i)
        std::copy_n(out[i], lanes, result + (i * tiles.count + t) * channels + first);
    }
  });
  return 0;
}

// tensors: products (16, tiles, C), bias (C), a tensor (B, H, W, *); the maps, no less than 0 (B, H, W, C)
extern "C" int winograd_output(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {
  const Tiles tiles(dimensions[2]);
  const int64_t channels = dimensions[0][2];
  const float *products = static_cast<float *>(tensors[0]), *bias = static_cast<float *>(tensors[1]);
  float *result = static_cast<float *>(tensors[3]);
  parallel::each(tiles.count, [&](int64_t t) {
    const int64_t image = t / (tiles.rows * tiles.columns);
    const int64_t top = t / tiles.columns % tiles.rows * kOutputs, left = t % tiles.columns * kOutputs;
    for (int64_t first = 0; first < channels; first += kLanes) {
      const int64_t lanes = std::min(kLanes, channels - first);
      Lanes in[kPoints] = {}, half[kOutputs * kInputs], out[kOutputs * kOutputs];
      for (int64_t i = 0; i < kPoints; ++i)
        std::copy_n(products + (i * tiles.count + t) * channels + first, lanes, in[i]);
      for (int64_t i = 0; i < kInputs; ++i) output_axis(in + i, kInputs, half + i, kInputs);
      for (int64_t i = 0; i < kOutputs; ++i) output_axis(half + i * kInputs, 1, out + i * kOutputs, 1);
      for (int64_t i = 0; i < kOutputs * kOutputs; ++i) {
        const int64_t y = top + i / kOutputs, x = left + i % kOutputs;
        if (y >= tiles.height || x >= tiles.width) continue;
        float *to = result + ((image * tiles.height + y) * tiles.width + x) * channels + first;
        for (int64_t l = 0; l < lanes; ++l) to[l] = std::max(out[i][l] + bias[first + l], 0.f);
      }
    }
  });
  return 0;
}
