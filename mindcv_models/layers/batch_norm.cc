// Batch normalisation of float32 maps in training and its gradient on the CPU, for ops.Custom ("aot").
//
// MindSpore's own operator walks over all maps once for the means, once for the variances and once for the result. Here
// a channel is finished before the next one begins, while its maps are in the cache. No sum is split between threads, so
// that results do not depend on their number.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

namespace {

constexpr int64_t kLane = 16;     // sums that the compiler turns into vector instructions
constexpr int64_t kBlock = 1024;  // numbers that are added up in float32

struct Shape {
  explicit Shape(const int64_t *of) : batch(of[0]), channels(of[1]), plane(of[2] * of[3]) {}
  int64_t count() const { return batch * plane; }
  int64_t offset(int64_t b, int64_t channel) const { return (b * channels + channel) * plane; }
  int64_t batch, channels, plane;
};

// The sum of term(i) over [0, size).
template <typename Term>
double sum(int64_t size, Term term) {
  double total = 0;
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t end = std::min(size, begin + kBlock), whole = begin + (end - begin) / kLane * kLane;
    float lanes[kLane] = {};
    for (int64_t i = begin; i < whole; i += kLane)
      for (int64_t k = 0; k < kLane; ++k) lanes[k] += term(i + k);
    for (int64_t i = whole; i < end; ++i) lanes[i - whole] += term(i);
    total = std::accumulate(lanes, lanes + kLane, total);
  }
  return total;
}

}  // namespace

// tensors: maps (B, C, H, W), gain (C), shift (C), running mean (C) and variance (C), which are written, and settings:
// what the running statistics keep, and epsilon; then the result (B, C, H, W), the means (C) and 1 / deviations (C)
extern "C" int normalize(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {
  const float *maps = static_cast<float *>(tensors[0]), *gain = static_cast<float *>(tensors[1]);
  const float *shift = static_cast<float *>(tensors[2]), *settings = static_cast<float *>(tensors[5]);
  float *running_mean = static_cast<float *>(tensors[3]), *running_variance = static_cast<float *>(tensors[4]);
  float *result = static_cast<float *>(tensors[6]), *means = static_cast<float *>(tensors[7]);
  float *scales = static_cast<float *>(tensors[8]);
  const Shape s(dimensions[0]);
  const double count = s.count(), keep = settings[0];
#pragma omp parallel for schedule(static)
  for (int64_t channel = 0; channel < s.channels; ++channel) {
    double total = 0, squares = 0;
    for (int64_t b = 0; b < s.batch; ++b) {
      const float *map = maps + s.offset(b, channel);
      total += sum(s.plane, [map](int64_t i) { return map[i]; });
    }
    const float mean = total / count;
    for (int64_t b = 0; b < s.batch; ++b) {
      const float *map = maps + s.offset(b, channel);
      squares += sum(s.plane, [map, mean](int64_t i) { return (map[i] - mean) * (map[i] - mean); });
    }
    const float scale = 1 / std::sqrt(squares / count + settings[1]), factor = scale * gain[channel];
    for (int64_t b = 0; b < s.batch; ++b) {
      const float *map = maps + s.offset(b, channel);
      float *out = result + s.offset(b, channel);
      for (int64_t i = 0; i < s.plane; ++i) out[i] = (map[i] - mean) * factor + shift[channel];
    }
    means[channel] = mean;
    scales[channel] = scale;
    running_mean[channel] = keep * running_mean[channel] + (1 - keep) * mean;
    running_variance[channel] =
        keep * running_variance[channel] + (1 - keep) * squares / std::max(count - 1, 1.);  // unbiased
  }
  return 0;
}

// tensors: maps, the gradient of the result, gain, means and 1 / deviations, as above; then the gradients of maps, gain
// and shift
extern "C" int differentiate(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {
  const float *maps = static_cast<float *>(tensors[0]), *result_gradient = static_cast<float *>(tensors[1]);
  const float *gain = static_cast<float *>(tensors[2]), *means = static_cast<float *>(tensors[3]);
  const float *scales = static_cast<float *>(tensors[4]);
  float *maps_gradient = static_cast<float *>(tensors[5]), *gain_gradient = static_cast<float *>(tensors[6]);
  float *shift_gradient = static_cast<float *>(tensors[7]);
  const Shape s(dimensions[0]);
#pragma omp parallel for schedule(static)
  for (int64_t channel = 0; channel < s.channels; ++channel) {
    const float mean = means[channel], scale = scales[channel];
    double total = 0, products = 0;  // of the gradient, and of the gradient and the centred map
    for (int64_t b = 0; b < s.batch; ++b) {
      const float *map = maps + s.offset(b, channel), *gradient = result_gradient + s.offset(b, channel);
      total += sum(s.plane, [gradient](int64_t i) { return gradient[i]; });
      products += sum(s.plane, [map, gradient, mean](int64_t i) { return gradient[i] * (map[i] - mean); });
    }
    const float factor = gain[channel] * scale, average = total / s.count();
    const float slope = products * scale * scale / s.count();
    for (int64_t b = 0; b < s.batch; ++b) {
      const float *map = maps + s.offset(b, channel), *gradient = result_gradient + s.offset(b, channel);
      float *out = maps_gradient + s.offset(b, channel);
      for (int64_t i = 0; i < s.plane; ++i) out[i] = factor * (gradient[i] - average - slope * (map[i] - mean));
    }
    gain_gradient[channel] = products * scale;
    shift_gradient[channel] = total;
  }
  return 0;
}
