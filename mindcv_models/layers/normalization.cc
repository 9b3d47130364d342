// Normalisation of float32 tensors and its gradient on the CPU, for ops.Custom ("aot"): batch normalisation in training,
// and layer normalisation of tokens and of maps.
//
// MindSpore's own operators walk over all of a tensor for the means, again for the variances and again for the result.
// Here a channel or a row is finished before the next one begins, while it is in the cache. What a sum is made of does
// not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "parallel.h"

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

// The sum of term(i) over the numbers i of a channel of all maps.
template <typename Term>
double sum_channel(const Shape &s, int64_t channel, Term term) {
  double total = 0;
  for (int64_t b = 0; b < s.batch; ++b)
    total += sum(s.plane, [&, offset = s.offset(b, channel)](int64_t i) { return term(offset + i); });
  return total;
}

// Layer normalisation of (outer, C, inner): over the channels of every row or, with an inner size, of every position.
struct Layer {
  Layer(const int64_t *shape, int dimensions, int axis)
      : outer(product(shape, shape + axis)), channels(shape[axis]), inner(product(shape + axis + 1, shape + dimensions)),
        blocks(inner == 1 ? 1 : (inner + kBeside - 1) / kBeside) {}
  static int64_t product(const int64_t *begin, const int64_t *end) {
    return std::accumulate(begin, end, int64_t{1}, std::multiplies<int64_t>());
  }
  static constexpr int64_t kRows = 64, kBeside = 64;  // rows, or positions beside each other, that a thread takes at a time
  int64_t tasks() const { return inner == 1 ? (outer + kRows - 1) / kRows : outer * blocks; }
  int64_t outer, channels, inner, blocks;
};

// A task's part of a map: `width` positions beside each other from `offset` on; channel after channel is `inner` further.
struct Strip {
  Strip(const Layer &of, int64_t task)
      : position(task / of.blocks * of.inner + task % of.blocks * Layer::kBeside),
        offset(task / of.blocks * of.channels * of.inner + task % of.blocks * Layer::kBeside),
        width(std::min(Layer::kBeside, of.inner - task % of.blocks * Layer::kBeside)) {}
  int64_t position, offset, width;
};

void normalize_row(const float *row, int64_t channels, const float *gain, const float *shift, float epsilon, float *out,
                   float *mean_out, float *scale_out) {
  const float mean = sum(channels, [row](int64_t i) { return row[i]; }) / channels;
  const double squares = sum(channels, [row, mean](int64_t i) { return (row[i] - mean) * (row[i] - mean); });
  const float scale = 1 / std::sqrt(squares / channels + epsilon);
  for (int64_t i = 0; i < channels; ++i) out[i] = (row[i] - mean) * scale * gain[i] + shift[i];
  *mean_out = mean;
  *scale_out = scale;
}

void normalize_strip(const float *map, const Layer &of, int64_t width, const float *gain, const float *shift,
                     float epsilon, float *out, float *means, float *scales) {
  double sums[Layer::kBeside] = {}, squares[Layer::kBeside] = {};
  for (int64_t c = 0; c < of.channels; ++c)
    for (int64_t i = 0; i < width; ++i) sums[i] += map[c * of.inner + i];
  for (int64_t i = 0; i < width; ++i) means[i] = sums[i] / of.channels;
  for (int64_t c = 0; c < of.channels; ++c) {
    for (int64_t i = 0; i < width; ++i) {
      const float centred = map[c * of.inner + i] - means[i];
      squares[i] += centred * centred;
    }
  }
  for (int64_t i = 0; i < width; ++i) scales[i] = 1 / std::sqrt(squares[i] / of.channels + epsilon);
  for (int64_t c = 0; c < of.channels; ++c)
    for (int64_t i = 0; i < width; ++i)
      out[c * of.inner + i] = (map[c * of.inner + i] - means[i]) * scales[i] * gain[c] + shift[c];
}

// Both add what the row or strip gives to the gradients of gain and shift.
void differentiate_row(const float *row, const float *gradient, int64_t channels, const float *gain, float mean,
                       float scale, float *out, float *gain_gradient, float *shift_gradient) {
  const float average = sum(channels, [=](int64_t i) { return gradient[i] * gain[i]; }) / channels;
  const float slope =
      sum(channels, [=](int64_t i) { return gradient[i] * gain[i] * ((row[i] - mean) * scale); }) / channels;
  for (int64_t i = 0; i < channels; ++i) {
    const float normal = (row[i] - mean) * scale;
    out[i] = scale * (gradient[i] * gain[i] - average - normal * slope);
    gain_gradient[i] += gradient[i] * normal;
    shift_gradient[i] += gradient[i];
  }
}

void differentiate_strip(const float *map, const float *gradient, const Layer &of, int64_t width, const float *gain,
                         const float *means, const float *scales, float *out, float *gain_gradient,
                         float *shift_gradient) {
  double averages[Layer::kBeside] = {}, slopes[Layer::kBeside] = {};
  for (int64_t c = 0; c < of.channels; ++c) {
    const float *values = map + c * of.inner, *given = gradient + c * of.inner;
    for (int64_t i = 0; i < width; ++i) {
      averages[i] += given[i] * gain[c];
      slopes[i] += given[i] * gain[c] * ((values[i] - means[i]) * scales[i]);
    }
  }
  for (int64_t c = 0; c < of.channels; ++c) {
    const float *values = map + c * of.inner, *given = gradient + c * of.inner;
    float *found = out + c * of.inner;
    for (int64_t i = 0; i < width; ++i) {
      const float normal = (values[i] - means[i]) * scales[i];
      const float average = averages[i] / of.channels, slope = slopes[i] / of.channels;
      found[i] = scales[i] * (given[i] * gain[c] - average - normal * slope);
    }
    gain_gradient[c] += sum(width, [=](int64_t i) { return given[i] * ((values[i] - means[i]) * scales[i]); });
    shift_gradient[c] += sum(width, [=](int64_t i) { return given[i]; });
  }
}

// tensors: as of layer_norm
int normalize_layer(void **tensors, const Layer &of) {
  const float *values = static_cast<float *>(tensors[0]), *gain = static_cast<float *>(tensors[1]);
  const float *shift = static_cast<float *>(tensors[2]), epsilon = *static_cast<float *>(tensors[3]);
  float *result = static_cast<float *>(tensors[4]), *means = static_cast<float *>(tensors[5]);
  float *scales = static_cast<float *>(tensors[6]);
  parallel::each(of.tasks(), [&](int64_t task) {
    if (of.inner == 1) {
      for (int64_t row = task * Layer::kRows; row < std::min(of.outer, (task + 1) * Layer::kRows); ++row)
        normalize_row(values + row * of.channels, of.channels, gain, shift, epsilon, result + row * of.channels,
                      means + row, scales + row);
    } else {
      const Strip strip(of, task);
      normalize_strip(values + strip.offset, of, strip.width, gain, shift, epsilon, result + strip.offset,
                      means + strip.position, scales + strip.position);
    }
  });
  return 0;
}

// tensors: as of layer_norm_gradient
int differentiate_layer(void **tensors, const Layer &of) {
  const float *values = static_cast<float *>(tensors[0]), *gradient = static_cast<float *>(tensors[1]);
  const float *gain = static_cast<float *>(tensors[2]), *means = static_cast<float *>(tensors[3]);
  const float *scales = static_cast<float *>(tensors[4]);
  float *result = static_cast<float *>(tensors[5]), *totals[] = {static_cast<float *>(tensors[6]),
                                                                 static_cast<float *>(tensors[7])};
  const int64_t channels = of.channels, tasks = of.tasks();
  std::vector<float> parts(2 * tasks * channels);  // of each task: the gradients of gain and of shift
  parallel::each(tasks, [&](int64_t task) {
    float *of_gain = parts.data() + 2 * task * channels, *of_shift = of_gain + channels;
    if (of.inner == 1) {
      for (int64_t row = task * Layer::kRows; row < std::min(of.outer, (task + 1) * Layer::kRows); ++row)
        differentiate_row(values + row * channels, gradient + row * channels, channels, gain, means[row], scales[row],
                          result + row * channels, of_gain, of_shift);
    } else {
      const Strip strip(of, task);
      differentiate_strip(values + strip.offset, gradient + strip.offset, of, strip.width, gain,
                          means + strip.position, scales + strip.position, result + strip.offset, of_gain, of_shift);
    }
  });
  std::vector<double> sums(2 * channels);
  for (int64_t task = 0; task < tasks; ++task)
    for (int64_t i = 0; i < 2 * channels; ++i) sums[i] += parts[2 * task * channels + i];
  for (int64_t i = 0; i < 2 * channels; ++i) totals[i / channels][i % channels] = sums[i];
  return 0;
}

// What a normalisation makes of a channel of maps that are `factor` times those with a variance: (x - mean) * slope(),
// and how the slope changes with factor and variance, both over the gain.
struct Branch {
  Branch(double factor, double gain, double variance, double epsilon)
      : factor(factor), gain(gain), deviation(std::sqrt(factor * factor * variance + epsilon)), epsilon(epsilon) {}
  double slope() const { return gain * factor / deviation; }
  double by_factor() const { return epsilon / (deviation * deviation * deviation); }
  double by_variance() const { return -0.5 * factor * factor * factor / (deviation * deviation * deviation); }
  double factor, gain, deviation, epsilon;
};

constexpr int kBranches = 3;
constexpr double kSigns[kBranches] = {1, 1, -1};

}  // namespace

// tensors: values (..., C), gain (C), shift (C) and epsilon (1); then the result (..., C), the means (...) and
// 1 / deviations (...)
extern "C" int layer_norm(int, void **tensors, int *dimensions, int64_t **shapes, const char **, void *, void *) {
  return normalize_layer(tensors, Layer(shapes[0], dimensions[0], dimensions[0] - 1));
}

// tensors: values, the gradient of the result, gain, means and 1 / deviations, as above; then the gradients of values,
// gain and shift
extern "C" int layer_norm_gradient(int, void **tensors, int *dimensions, int64_t **shapes, const char **, void *,
                                   void *) {
  return differentiate_layer(tensors, Layer(shapes[0], dimensions[0], dimensions[0] - 1));
}

// The same for maps (B, C, H, W) over their channels; means and 1 / deviations are (B, H, W).
extern "C" int channel_norm(int, void **tensors, int *dimensions, int64_t **shapes, const char **, void *, void *) {
  return normalize_layer(tensors, Layer(shapes[0], dimensions[0], 1));
}

extern "C" int channel_norm_gradient(int, void **tensors, int *dimensions, int64_t **shapes, const char **, void *,
                                     void *) {
  return differentiate_layer(tensors, Layer(shapes[0], dimensions[0], 1));
}

// tensors: maps (B, C, H, W), gain (C), shift (C), running mean (C) and variance (C), which are written, and settings:
// what the running statistics keep, and epsilon; then the result (B, C, H, W), the means (C) and 1 / deviations (C)
extern "C" int batch_norm(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {
  const float *maps = static_cast<float *>(tensors[0]), *gain = static_cast<float *>(tensors[1]);
  const float *shift = static_cast<float *>(tensors[2]), *settings = static_cast<float *>(tensors[5]);
  float *running_mean = static_cast<float *>(tensors[3]), *running_variance = static_cast<float *>(tensors[4]);
  float *result = static_cast<float *>(tensors[6]), *means = static_cast<float *>(tensors[7]);
  float *scales = static_cast<float *>(tensors[8]);
  const Shape s(dimensions[0]);
  const double count = s.count(), keep = settings[0];
  parallel::each(s.channels, [&](int64_t channel) {
    const float mean = sum_channel(s, channel, [=](int64_t i) { return maps[i]; }) / count;
    const double squares = sum_channel(s, channel, [=](int64_t i) { return (maps[i] - mean) * (maps[i] - mean); });
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
  });
  return 0;
}

// tensors: maps, the gradient of the result, gain, means and 1 / deviations, as above; then the gradients of maps, gain
// and shift
extern "C" int batch_norm_gradient(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {
  const float *maps = static_cast<float *>(tensors[0]), *result_gradient = static_cast<float *>(tensors[1]);
  const float *gain = static_cast<float *>(tensors[2]), *means = static_cast<float *>(tensors[3]);
  const float *scales = static_cast<float *>(tensors[4]);
  float *maps_gradient = static_cast<float *>(tensors[5]), *gain_gradient = static_cast<float *>(tensors[6]);
  float *shift_gradient = static_cast<float *>(tensors[7]);
  const Shape s(dimensions[0]);
  parallel::each(s.channels, [&](int64_t channel) {
    const float mean = means[channel], scale = scales[channel];
    const double total = sum_channel(s, channel, [=](int64_t i) { return result_gradient[i]; });
    const double products =  // of the gradient and the centred map
        sum_channel(s, channel, [=](int64_t i) { return result_gradient[i] * (maps[i] - mean); });
    const float factor = gain[channel] * scale, average = total / s.count();
    const float slope = products * scale * scale / s.count();
    for (int64_t b = 0; b < s.batch; ++b) {
      const float *map = maps + s.offset(b, channel), *gradient = result_gradient + s.offset(b, channel);
      float *out = maps_gradient + s.offset(b, channel);
      for (int64_t i = 0; i < s.plane; ++i) out[i] = factor * (gradient[i] - average - slope * (map[i] - mean));
    }
    gain_gradient[channel] = products * scale;
    shift_gradient[channel] = total;
  });
  return 0;
}

// Three normalisations of one map: first(factor * x) + second(x) - third(x). tensors: x (B, C, H, W), factor (C, ...);
// gains, shifts, running means and running variances (C) of each, of which the last two are written; settings as above;
// then the result (B, C, H, W), means (C) and variances (C) of x
extern "C" int joint_norms(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {
  float **data = reinterpret_cast<float **>(tensors);
  const float *maps = data[0], *factors = data[1], *settings = data[14];
  float **gains = data + 2, **shifts = data + 5, **running_means = data + 8, **running_variances = data + 11;
  float *result = data[15], *means = data[16], *variances = data[17];
  const Shape s(dimensions[0]);
  const double count = s.count(), keep = settings[0];
  parallel::each(s.channels, [&](int64_t c) {
    const float mean = sum_channel(s, c, [=](int64_t i) { return maps[i]; }) / count;
    const double squares = sum_channel(s, c, [=](int64_t i) { return (maps[i] - mean) * (maps[i] - mean); });
    double slopes = 0, shift = 0;
    for (int k = 0; k < kBranches; ++k) {
      const double factor = k == 0 ? factors[c] : 1;
      slopes += kSigns[k] * Branch(factor, gains[k][c], squares / count, settings[1]).slope();
      shift += kSigns[k] * shifts[k][c];
      const double variance = factor * factor * squares / std::max(count - 1, 1.);  // unbiased
      running_means[k][c] = keep * running_means[k][c] + (1 - keep) * factor * mean;
      running_variances[k][c] = keep * running_variances[k][c] + (1 - keep) * variance;
    }
    const float slope = slopes, base = shift;
    for (int64_t b = 0; b < s.batch; ++b) {
      const float *map = maps + s.offset(b, c);
      float *out = result + s.offset(b, c);
      for (int64_t i = 0; i < s.plane; ++i) out[i] = (map[i] - mean) * slope + base;
    }
    means[c] = mean;
    variances[c] = squares / count;
  });
  return 0;
}

// tensors: x, gradient of the result, factor, three gains, means, variances and settings, as above; then the gradients
// of x and factor, of the gains and of the shifts
extern "C" int joint_norms_gradient(int, void **tensors, int *, int64_t **dimensions, const char **, void *, void *) {
  float **data = reinterpret_cast<float **>(tensors);
  const float *maps = data[0], *given = data[1], *factors = data[2], *means = data[6], *variances = data[7];
  const float epsilon = data[8][1];
  float **gains = data + 3, *to_maps = data[9], *to_factor = data[10], **to_gains = data + 11, **to_shifts = data + 14;
  const Shape s(dimensions[0]);
  parallel::each(s.channels, [&](int64_t c) {
    const float mean = means[c];
    const double total = sum_channel(s, c, [=](int64_t i) { return given[i]; });
    const double products = sum_channel(s, c, [=](int64_t i) { return given[i] * (maps[i] - mean); });
    double slopes = 0, to_variance = 0;
    for (int k = 0; k < kBranches; ++k) {
      const Branch branch(k == 0 ? factors[c] : 1, gains[k][c], variances[c], epsilon);
      const double share = kSigns[k] * products;
      slopes += kSigns[k] * branch.slope();
      to_variance += share * branch.gain * branch.by_variance();
      if (k == 0) to_factor[c] = share * branch.gain * branch.by_factor();
      to_gains[k][c] = share * branch.factor / branch.deviation;
      to_shifts[k][c] = kSigns[k] * total;
    }
    const float slope = slopes, average = slopes * total / s.count(), bend = 2 * to_variance / s.count();
    for (int64_t b = 0; b < s.batch; ++b) {
      const float *map = maps + s.offset(b, c), *gradient = given + s.offset(b, c);
      float *out = to_maps + s.offset(b, c);
      for (int64_t i = 0; i < s.plane; ++i) out[i] = slope * gradient[i] - average + bend * (map[i] - mean);
    }
  });
  return 0;
}
