// Powers of two in loops that the compiler turns into vector instructions.

#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
#pragma GCC target("prefer-vector-width=512")  // all of a register; the compiler takes half of it else
#endif

namespace {

// 2^z for z from -126 to 127, within 1.1e-7 of itself, as 2^k 2^f with f in [-1/2, 1/2].
inline float power_of_two(float z) {
  const float shift = 12582912.f;  // 1.5 * 2^23: what is added to it is rounded to a whole number
  const float shifted = z + shift, f = z - (shifted - shift);
  float power = f * 1.5345822235e-4f + 1.3399935652e-3f;
  power = power * f + 9.6184889610e-3f;
  power = power * f + 5.5503287661e-2f;
  power = power * f + 2.4022646890e-1f;
  power = power * f + 6.9314720574e-1f;
  power = power * f + 1.f;
  uint32_t bits, whole;
  std::memcpy(&bits, &power, sizeof(bits));
  std::memcpy(&whole, &shifted, sizeof(whole));
  bits += whole << 23;
  std::memcpy(&power, &bits, sizeof(bits));
  return power;
}

}  // namespace
