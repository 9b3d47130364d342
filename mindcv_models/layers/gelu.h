// GELU of a float32 number and its slope, in loops that the compiler turns into vector instructions.
//
// With t = |x| and the normal distribution's tail Phi(-t), GELU is max(x, 0) - t Phi(-t): what is subtracted is at most
// 0.17, so that nothing but the last subtraction rounds the result. Every number is computed in the same way wherever
// it stands, so that results depend on neither the batch nor the number of threads.

#pragma once

#include <cmath>

#include "power.h"

namespace {

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

inline float gelu_value(float x) {
  const float t = magnitude(x);
  return (x > 0.f ? x : 0.f) - t * (bell(t) / mills(t));
}

inline float gelu_slope(float x) {
  const float t = magnitude(x);
  const float below = bell(t) * (1.f / mills(t) - t * 0.398942280401432678f);  // the slope at -t; 1 / sqrt(2 pi)
  return x > 0.f ? 1.f - below : below;
}

}  // namespace
