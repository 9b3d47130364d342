// GELU of float32 tensors and its gradient on the CPU, for ops.Custom ("aot"): each in one pass over memory.
//
// With t = |x| and the normal distribution's tail Phi(-t), GELU is max(x, 0) - t Phi(-t): what is subtracted is at most
// 0.17, so that nothing but the last subtraction rounds the result. Every number is computed in the same way wherever
// it stands, so that results depend on neither the batch nor the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "parallel.h"
#include "power.h"

namespace {

constexpr int64_t kRun = 64;          // numbers in a loop that the compiler turns into vector instructions
constexpr int64_t kBlock = 64 * kRun;  // numbers that a thread takes at a time

// exp(-t^2 / 2) for t from 0 to 13.
inline float bell(float t) {
  return power_of_two(t * t * -0.721347520444481703f);  // log2(e) / 2
}

// 1 / (e^{t^2/2} Phi(-t)), Mills' ratio the other way up, within 8e-9 / max(1, t) of Phi(-t) on [0, 6].
inline float mills(float t) {
  t = t > 6.f ? 6.f : t;
  float value = t * -8.7306700651e-6f + 1.4170547798e-4f;
  value = value * t - 9.5553602833e-4f;
  value = value * t + 3.0752098779e-3f;
  value = value * t - 2.8462157263e-4f;
  value = value * t - 4.8053847807e-2f;
  value = value * t + 2.7326642678e-1f;
  value = value * t + 1.5957667520f;
  return value * t + 2.f;
}

// |x|, at most 13, beyond which the tail is 0 in float32; NaN stays.
inline float magnitude(float x) {
  const float t = std::fabs(x);
  return t > 13.f ? 13.f : t;
}

inline float value(float x) {
  const float t = magnitude(x);
  return (x > 0.f ? x : 0.f) - t * (bell(t) / mills(t));
}

inline float slope(float x) {
  const float t = magnitude(x);
  const float below = bell(t) * (1.f / mills(t) - t * 0.398942280401432678f);  // the slope at -t; 1 / sqrt(2 pi)
  return x > 0.f ? 1.f - below : below;
}

// result[i] = function(x[i], y[i]) for a run.
template <typename Function>
inline void one_run(const float *__restrict x, const float *__restrict y, float *__restrict result, Function function) {
#pragma omp simd
  for (int64_t i = 0; i < kRun; ++i) result[i] = function(x[i], y[i]);
}

template <typename Function>
int each(int64_t size, const float *x, const float *y, float *result, Function function) {
  parallel::each_range((size + kBlock - 1) / kBlock, [&](int64_t first, int64_t last) {
    const int64_t end = std::min(size, last * kBlock);
    for (int64_t i = first * kBlock; i < end; i += kRun) {
      if (i + kRun <= end) {
        one_run(x + i, y + i, result + i, function);
        continue;
      }
      float filled[3][kRun] = {};  // the end of the tensor, filled up with zeros
      std::copy(x + i, x + end, filled[0]);
      std::copy(y + i, y + end, filled[1]);
      one_run(filled[0], filled[1], filled[2], function);
      std::copy_n(filled[2], end - i, result + i);
    }
  });
  return 0;
}

int64_t size_of(int dimensions, const int64_t *shape) {
  int64_t size = 1;
  for (int i = 0; i < dimensions; ++i) size *= shape[i];
  return size;
}

}  // namespace

// tensors: x, result
extern "C" int gelu(int, void **tensors, int *dimensions, int64_t **shapes, const char **, void *, void *) {
  const float *x = static_cast<float *>(tensors[0]);
  return each(size_of(dimensions[0], shapes[0]), x, x, static_cast<float *>(tensors[1]),
              [](float x, float) { return value(x); });
}

// tensors: x, gradient of the result; then the gradient of x
extern "C" int gelu_gradient(int, void **tensors, int *dimensions, int64_t **shapes, const char **, void *, void *) {
  return each(size_of(dimensions[0], shapes[0]), static_cast<float *>(tensors[0]), static_cast<float *>(tensors[1]),
              static_cast<float *>(tensors[2]), [](float x, float gradient) { return gradient * slope(x); });
}
