// GELU of float32 tensors and its gradient on the CPU, for ops.Custom ("aot"): each in one pass over memory.

#include <algorithm>
#include <cstdint>

#include "gelu.h"
#include "parallel.h"

namespace {

constexpr int64_t kRun = 64;          // numbers in a loop that the compiler turns into vector instructions
constexpr int64_t kBlock = 64 * kRun;  // numbers that a thread takes at a time

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
              [](float x, float) { return gelu_value(x); });
}

// tensors: x, gradient of the result; then the gradient of x
extern "C" int gelu_gradient(int, void **tensors, int *dimensions, int64_t **shapes, const char **, void *, void *) {
  return each(size_of(dimensions[0], shapes[0]), static_cast<float *>(tensors[0]), static_cast<float *>(tensors[1]),
              static_cast<float *>(tensors[2]), [](float x, float gradient) { return gradient * gelu_slope(x); });
}
