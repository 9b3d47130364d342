// The sum of the squares of all numbers of float32 tensors on the CPU, for ops.Custom ("aot"): one operator for all
// gradients of a network. Each tensor has a sum of its own, so that results do not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

namespace {

constexpr int64_t kLane = 16;    // sums that the compiler turns into vector instructions
constexpr int64_t kBlock = 4096;  // numbers that are added up in float32

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

// tensors: any number of them; then the sum (1)
extern "C" int sum_of_squares(int count, void **tensors, int *dimensions, int64_t **shapes, const char **, void *,
                              void *) {
  std::vector<double> sums(count - 1);
#pragma omp parallel for schedule(dynamic)
  for (int k = 0; k < count - 1; ++k) {
    const int64_t size = std::accumulate(shapes[k], shapes[k] + dimensions[k], int64_t{1}, std::multiplies<int64_t>());
    sums[k] = sum_of_squares_of(static_cast<const float *>(tensors[k]), size);
  }
  *static_cast<float *>(tensors[count - 1]) = static_cast<float>(std::accumulate(sums.begin(), sums.end(), 0.));
  return 0;
}
