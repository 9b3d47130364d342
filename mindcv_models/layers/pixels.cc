// What the losses of a segmenter sum over pixels, and its gradient, on the CPU, for ops.Custom ("aot").
//
// Logits are enlarged, and turned into probabilities, row by row, so that none of them is ever kept at the size of the
// labels. A band of rows is the work of one thread and gives sums of its own, which are added in order: results depend
// on no number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "bilinear.h"
#include "parallel.h"
#include "power.h"

namespace {

constexpr int64_t kLabelRows = 16;  // in a band of the forward pass
constexpr int64_t kMapRows = 8;     // in a band of the backward pass
constexpr float kLog2e = 1.44269504089f;

// Where the sums are: the cross entropy, the hits, and three of every class.
struct Places {
  explicit Places(int64_t classes)
      : common(2), probability(2 + classes), pixels(2 + 2 * classes), count(2 + 3 * classes) {}
  static constexpr int64_t kEntropy = 0, kHits = 1;
  int64_t common, probability, pixels, count;
};

// tensors: logits (B, K, h, w), labels (B, H, W), weights (K,)
struct Problem {
  Problem(void **tensors, int64_t **shapes)
      : logits(static_cast<float *>(tensors[0])), labels(static_cast<int32_t *>(tensors[1])),
        weights(static_cast<float *>(tensors[2])), images(shapes[0][0]), classes(shapes[0][1]),
        sizes(shapes[0] + 2, shapes[1] + 1), places(classes) {}
  const float *logits;
  const int32_t *labels;
  const float *weights;
  int64_t images, classes;
  Sizes sizes;
  Places places;
};

// One row of an image's pixels: their probabilities (K, W), 0 where no class counts, and what belongs to each pixel.
class Row {
 public:
  explicit Row(const Problem &problem)
      : p(problem), width(p.sizes.columns), values(p.classes * width), largest(width), total(width), own(width),
        best(width), mixed_(p.sizes.width) {}

  void compute(int64_t image, int64_t y) {
    labels = p.labels + (image * p.sizes.rows + y) * width;
    for (int64_t k = 0; k < p.classes; ++k) {
      const float *map = p.logits + (image * p.classes + k) * p.sizes.height * p.sizes.width;
      enlarge_row(map, p.sizes, y, mixed_.data(), of(k));
    }
    std::copy_n(of(0), width, largest.begin());
    std::fill(best.begin(), best.end(), 0);
    for (int64_t k = 1; k < p.classes; ++k) choose_larger(of(k), k, largest.data(), best.data());
    for (int64_t x = 0; x < width; ++x) own[x] = of(std::max(labels[x], 0))[x] - largest[x];
    std::fill(total.begin(), total.end(), 0.f);
    for (int64_t k = 0; k < p.classes; ++k) exponentials(of(k), largest.data(), total.data());
    for (int64_t x = 0; x < width; ++x) own[x] = std::log(total[x]) - own[x];
    for (int64_t x = 0; x < width; ++x) total[x] = (labels[x] >= 0 ? 1.f : 0.f) / total[x];
    for (int64_t k = 0; k < p.classes; ++k) multiply(of(k), total.data());
  }

  float *of(int64_t k) { return values.data() + k * width; }

  const Problem &p;
  const int64_t width;
  const int32_t *labels = nullptr;
  std::vector<float> values, largest, total, own;  // `own` is the cross entropy of a pixel
  std::vector<int32_t> best;

 private:
  void choose_larger(const float *row, int32_t k, float *__restrict most, int32_t *__restrict which) {
    for (int64_t x = 0; x < width; ++x) which[x] = row[x] > most[x] ? k : which[x];
    for (int64_t x = 0; x < width; ++x) most[x] = row[x] > most[x] ? row[x] : most[x];
  }

  void exponentials(float *__restrict row, const float *__restrict most, float *__restrict sum) {
#pragma omp simd
    for (int64_t x = 0; x < width; ++x) {
      const float z = (row[x] - most[x]) * kLog2e;
      row[x] = power_of_two(z < -126.f ? -126.f : z);
      sum[x] += row[x];
    }
  }

  void multiply(float *__restrict row, const float *__restrict factors) {
    for (int64_t x = 0; x < width; ++x) row[x] *= factors[x];
  }

  std::vector<float> mixed_;
};

void add_sums(Row &row, double *sums) {
  const Places &at = row.p.places;
  for (int64_t x = 0; x < row.width; ++x) {
    const int32_t label = row.labels[x];
    if (label < 0) continue;
    sums[Places::kEntropy] += row.p.weights[label] * row.own[x];
    sums[Places::kHits] += row.best[x] == label;
    sums[at.common + label] += row.of(label)[x];
    ++sums[at.pixels + label];
  }
  for (int64_t k = 0; k < row.p.classes; ++k) {
    float sum = 0;
    const float *values = row.of(k);
#pragma omp simd reduction(+ : sum)
    for (int64_t x = 0; x < row.width; ++x) sum += values[x];
    sums[at.probability + k] += sum;
  }
}

// The row's probabilities to the gradient of its logits; `shift` has space for a row.
void differentiate(Row &row, const float *dsums, float *shift) {
  const Places &at = row.p.places;
  const float *common = dsums + at.common, *probability = dsums + at.probability;
  std::fill_n(shift, row.width, 0.f);
  for (int64_t k = 0; k < row.p.classes; ++k) {
    const float *values = row.of(k);
    for (int64_t x = 0; x < row.width; ++x) shift[x] -= values[x] * probability[k];
  }
  for (int64_t x = 0; x < row.width; ++x) {  // `own` has served: from here on, what is added at a pixel's own class
    const int32_t label = row.labels[x];
    const float entropy = label < 0 ? 0.f : dsums[Places::kEntropy] * row.p.weights[label];
    const float slope = label < 0 ? 0.f : row.of(label)[x] * common[label];
    shift[x] += entropy - slope;
    row.own[x] = slope - entropy;
  }
  for (int64_t k = 0; k < row.p.classes; ++k) {
    float *values = row.of(k);
    for (int64_t x = 0; x < row.width; ++x) values[x] *= probability[k] + shift[x];
  }
  for (int64_t x = 0; x < row.width; ++x)
    if (row.labels[x] >= 0) row.of(row.labels[x])[x] += row.own[x];
}

}  // namespace

// tensors: those of the problem, sums (2 + 3 * K,)
extern "C" int pixel_sums(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  const Problem p(tensors, shapes);
  float *result = static_cast<float *>(tensors[3]);
  const int64_t bands = (p.sizes.rows + kLabelRows - 1) / kLabelRows, numbers = p.places.count;
  std::vector<double> sums(p.images * bands * numbers);
  parallel::each_range(p.images * bands, [&](int64_t first, int64_t end) {
    Row row(p);
    for (int64_t band = first; band < end; ++band) {
      const int64_t image = band / bands, top = band % bands * kLabelRows;
      for (int64_t y = top; y < std::min(top + kLabelRows, p.sizes.rows); ++y) {
        row.compute(image, y);
        add_sums(row, sums.data() + band * numbers);
      }
    }
  });
  for (int64_t i = 0; i < numbers; ++i) {
    double sum = 0;
    for (int64_t band = 0; band < p.images * bands; ++band) sum += sums[band * numbers + i];
    result[i] = sum;
  }
  return 0;
}

// tensors: those of the problem, gradient of the sums, gradient of the logits
extern "C" int pixel_sums_gradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  const Problem p(tensors, shapes);
  const Sizes &s = p.sizes;
  const float *dsums = static_cast<float *>(tensors[3]);
  float *result = static_cast<float *>(tensors[4]);
  const int64_t bands = (s.height + kMapRows - 1) / kMapRows;
  parallel::each_range(p.images * bands, [&](int64_t first, int64_t last) {
    Row row(p);
    std::vector<float> shift(s.columns), mixed(p.classes * kMapRows * s.columns);
    for (int64_t band = first; band < last; ++band) {
      const int64_t image = band / bands, top = band % bands * kMapRows, end = std::min(top + kMapRows, s.height);
      std::fill(mixed.begin(), mixed.end(), 0.f);
      for (int64_t y = 0; y < s.rows; ++y) {
        if (s.down.high[y] < top || s.down.low[y] >= end) continue;
        row.compute(image, y);
        differentiate(row, dsums, shift.data());
        for (int64_t k = 0; k < p.classes; ++k)
          spread_row(row.of(k), s, y, top, end, mixed.data() + k * kMapRows * s.columns);
      }
      for (int64_t k = 0; k < p.classes; ++k) {
        for (int64_t y = top; y < end; ++y)
          narrow_row(mixed.data() + (k * kMapRows + y - top) * s.columns, s,
                     result + ((image * p.classes + k) * s.height + y) * s.width);
      }
    }
  });
  return 0;
}
