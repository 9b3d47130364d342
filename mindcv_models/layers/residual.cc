// A residual branch of float32 maps with a scale for each channel, and its gradient on the CPU, for ops.Custom ("aot"):
// each in one pass over memory. Every number is summed up in one order, whatever the number of threads.

#include "parallel.h"
#include "tiles.h"

namespace {

struct Maps {
  explicit Maps(const int64_t *shape) : batch(shape[0]), channels(shape[1]), pixels(shape[2] * shape[3]) {}
  int64_t offset(int64_t b, int64_t channel) const { return (b * channels + channel) * pixels; }
  int64_t batch, channels, pixels;
};

// to = scale * gradient, and the sum of branch * gradient.
float differentiate(const float *branch, const float *gradient, float scale, int64_t count, float *to) {
  Lane lanes = {};
  float total = 0;
  int64_t i = 0;
  for (; i + kLane <= count; i += kLane) {
    const Lane slopes = lane(gradient + i);
    lanes += slopes * lane(branch + i);
    lane(to + i) = scale * slopes;
  }
  for (; i < count; ++i) {
    total += gradient[i] * branch[i];
    to[i] = scale * gradient[i];
  }
  for (int k = 0; k < kLane; ++k) total += lanes[k];
  return total;
}

}  // namespace

// tensors: x, scale (C, 1, 1), branch; result, all others (B, C, H, W)
extern "C" int add_scaled(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  const Maps maps(shapes[0]);
  const float *x = static_cast<float *>(tensors[0]), *scales = static_cast<float *>(tensors[1]);
  const float *branch = static_cast<float *>(tensors[2]);
  float *result = static_cast<float *>(tensors[3]);
  parallel::each(maps.batch * maps.channels, [&](int64_t map) {
    const float scale = scales[map % maps.channels];
    for (int64_t i = map * maps.pixels; i < (map + 1) * maps.pixels; ++i) result[i] = x[i] + scale * branch[i];
  });
  return 0;
}

// tensors: scale, branch, gradient of the result; gradients of scale and branch
extern "C" int add_scaled_gradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  const Maps maps(shapes[1]);
  const float *scales = static_cast<float *>(tensors[0]), *branch = static_cast<float *>(tensors[1]);
  const float *gradient = static_cast<float *>(tensors[2]);
  float *scales_gradient = static_cast<float *>(tensors[3]), *branch_gradient = static_cast<float *>(tensors[4]);
  parallel::each(maps.channels, [&](int64_t c) {
    double total = 0;
    for (int64_t b = 0; b < maps.batch; ++b) {
      const int64_t at = maps.offset(b, c);
      total += differentiate(branch + at, gradient + at, scales[c], maps.pixels, branch_gradient + at);
    }
    scales_gradient[c] = total;
  });
  return 0;
}
