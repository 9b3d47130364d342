// Updates of many float32 parameters by one operator on the CPU, for ops.Custom ("aot"), in place.
//
// MindSpore has an operator for each parameter, and starting them takes longer than what they compute. Every number is
// computed on its own, so that results do not depend on the number of threads.

#pragma GCC optimize("no-math-errno")  // so that square roots become vector instructions

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

namespace {

constexpr int64_t kPart = 1 << 14;  // numbers that a thread takes at a time

struct Part {
  int tensor;
  int64_t begin, end;
};

// Calls function(k, begin, end) for all parts of the tensors k, whose shapes are given.
template <typename Function>
void each_part(int count, const int *dimensions, int64_t *const *shapes, Function function) {
  std::vector<Part> parts;
  for (int k = 0; k < count; ++k) {
    const int64_t size = std::accumulate(shapes[k], shapes[k] + dimensions[k], int64_t{1}, std::multiplies<int64_t>());
    for (int64_t begin = 0; begin < size; begin += kPart) parts.push_back({k, begin, std::min(size, begin + kPart)});
  }
#pragma omp parallel for schedule(dynamic)
  for (size_t i = 0; i < parts.size(); ++i) function(parts[i].tensor, parts[i].begin, parts[i].end);
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
