// A convolution and the batch normalization after it as one convolution (Ioffe and Szegedy, 2015, section 3.1).

#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace {

// Weight and bias of the convolution that gives what the normalization makes of its result, by running statistics.
struct Folded {
  // tensors: weight (D, ...), bias (D), gain, shift, running mean and variance (D), settings: momentum and epsilon
  Folded(void **tensors, int64_t outputs, int64_t size) : weight(outputs * size), bias(outputs) {
    const auto at = [&](int i) { return static_cast<const float *>(tensors[i]); };
    for (int64_t o = 0; o < outputs; ++o) {
      const float factor = at(2)[o] / std::sqrt(at(5)[o] + at(6)[1]);
      bias[o] = (at(1)[o] - at(4)[o]) * factor + at(3)[o];
      for (int64_t i = o * size; i < (o + 1) * size; ++i) weight[i] = at(0)[i] * factor;
    }
  }
  std::vector<float> weight, bias;
};

}  // namespace
