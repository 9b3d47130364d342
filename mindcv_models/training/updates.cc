// Updates of many float32 parameters by one operator on the CPU, for ops.Custom ("aot"), in place; and the clipping of
// their gradients.
//
// MindSpore has an operator for each parameter, and starting them takes longer than what they compute. Every number is
// computed on its own and each tensor's sum too, so that results do not depend on the number of threads.

#pragma GCC optimize("no-math-errno")  // so that square roots become vector instructions

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "../layers/parallel.h"

namespace {

constexpr int64_t kPart = 1 << 14;  // numbers that a thread takes at a time
constexpr int64_t kLane = 16;       // sums that the compiler turns into vector instructions
constexpr int64_t kBlock = 4096;    // numbers that are added up in float32

struct Part {
  int tensor;
  int64_t begin, end;
};

int64_t size_of(int dimensions, const int64_t *shape) {
  return std::accumulate(shape, shape + dimensions, int64_t{1}, std::multiplies<int64_t>());
}

// Calls function(k, begin, end) for all parts of the tensors k, whose shapes are given.
template <typename Function>
void each_part(int count, const int *dimensions, int64_t *const *shapes, Function function) {
  std::vector<Part> parts;
  for (int k = 0; k < count; ++k) {
    const int64_t size = size_of(dimensions[k], shapes[k]);
    for (int64_t begin = 0; begin < size; begin += kPart) parts.push_back({k, begin, std::min(size, begin + kPart)});
  }
  parallel::each(parts.size(), [&](int64_t i) { function(parts[i].tensor, parts[i].begin, parts[i].end); });
}

double sum_of_squares_of(const float *values, int64_t size) {
  double sum = 0;
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t end = std::min(size, begin + kBlock), whole = begin + (end - begin) / kLane * kLane;
    float lanes[kLane] = {};
    for (int64_t i = begin; i < whole; i += kLane)
      for (int64_t k = 0; k < kLane; ++k) lanes[k] += values[i + k] * values[i + k];
    for (int64_t i = whole; i < end; ++i) lanes[i - whole] += values[i] * values[i];
    sum = std::accumulate(lanes, lanes + kLane, sum);
  }
  return sum;
}

}  // namespace

// tensors: rate, beta1, beta2, epsilon and decay (5); then n weights, n first moments and n second moments, which are
// written, and n gradients; then a result (1) that says nothing
extern "C" int adamw(int total, void **tensors, int *dimensions, int64_t **shapes, const char **, void *, void *) {
  const int count = (total - 2) / 4;
  const float *arguments = static_cast<const float *>(tensors[0]);
  const float rate = arguments[0], beta1 = arguments[1], beta2 = arguments[2], epsilon = arguments[3];
  const float decay = arguments[4];
  float **of = reinterpret_cast<float **>(tensors + 1);
  each_part(count, dimensions + 1, shapes + 1, [=](int k, int64_t begin, int64_t end) {
    float *__restrict weights = of[k], *__restrict first = of[count + k], *__restrict second = of[2 * count + k];
    const float *__restrict gradients = of[3 * count + k];
    for (int64_t i = begin; i < end; ++i) {
      const float gradient = gradients[i];
      first[i] = beta1 * first[i] + (1 - beta1) * gradient;
      second[i] = beta2 * second[i] + (1 - beta2) * gradient * gradient;
      weights[i] -= rate * (first[i] / (std::sqrt(second[i]) + epsilon) + decay * weights[i]);
    }
  });
  *static_cast<float *>(tensors[total - 1]) = 0;
  return 0;
}

// tensors: what the averages keep (1); then n averages, which are written, and n new values; then a result (1) that says
// nothing
extern "C" int average(int total, void **tensors, int *dimensions, int64_t **shapes, const char **, void *, void *) {
  const int count = (total - 2) / 2;
  const float keep = *static_cast<const float *>(tensors[0]);
  float **of = reinterpret_cast<float **>(tensors + 1);
  each_part(count, dimensions + 1, shapes + 1, [=](int k, int64_t begin, int64_t end) {
    float *__restrict averages = of[k];
    const float *__restrict values = of[count + k];
    for (int64_t i = begin; i < end; ++i) averages[i] = keep * averages[i] + (1 - keep) * values[i];
  });
  *static_cast<float *>(tensors[total - 1]) = 0;
  return 0;
}

// tensors: the largest norm (1); n gradients; then n results: the gradients, scaled if their global norm is larger
extern "C" int clip(int total, void **tensors, int *dimensions, int64_t **shapes, const char **, void *, void *) {
  const int count = (total - 1) / 2;
  const float largest = *static_cast<const float *>(tensors[0]);
  float **of = reinterpret_cast<float **>(tensors + 1);
  std::vector<double> sums(count);
  parallel::each(count, [&](int64_t k) {
    sums[k] = sum_of_squares_of(of[k], size_of(dimensions[k + 1], shapes[k + 1]));
  });
  const float norm = std::sqrt(static_cast<float>(std::accumulate(sums.begin(), sums.end(), 0.)));
  const float factor = largest / (norm < largest ? largest : norm);  // NaN stays
  each_part(count, dimensions + 1, shapes + 1, [=](int k, int64_t begin, int64_t end) {
    const float *__restrict gradients = of[k];
    float *__restrict results = of[count + k];
    for (int64_t i = begin; i < end; ++i) results[i] = gradients[i] * factor;
  });
  return 0;
}
