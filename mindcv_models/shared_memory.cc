// The mean over ranks of float32 tensors, for processes of one host, for ops.Custom ("aot").
//
// The ranks go through their tensors in blocks small enough to stay in the processor's cache: each copies its own to
// memory that all of them see, waits for the others, and adds up. There are two such places, used in turns: whoever has
// met the others for one block has read the block before, so that its place may be written again.

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

namespace {

constexpr int64_t kBlock = 1 << 17;  // numbers
constexpr int kSpins = 2000;         // some microseconds: a rank of its own core is hardly later

struct Meeting {
  std::atomic<uint32_t> arrived, number;
};

Meeting *meeting = nullptr;
int own = 0, ranks = 0, place = 0;

int64_t *sizes(int at) { return reinterpret_cast<int64_t *>(meeting + 1) + at * ranks; }

float *block(int at, int rank) { return reinterpret_cast<float *>(sizes(2)) + (int64_t{at} * ranks + rank) * kBlock; }

void meet() {
  const uint32_t now = meeting->number.load(std::memory_order_acquire);
  if (meeting->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(ranks)) {
    meeting->arrived.store(0, std::memory_order_relaxed);
    meeting->number.fetch_add(1, std::memory_order_release);
    syscall(SYS_futex, &meeting->number, FUTEX_WAKE, ranks, nullptr, nullptr, 0);
    return;
  }
  for (int spin = 0; meeting->number.load(std::memory_order_acquire) == now; ++spin)
    if (spin > kSpins) syscall(SYS_futex, &meeting->number, FUTEX_WAIT, now, nullptr, nullptr, 0);
}

// Calls use(values, size) for the pieces of tensors, one behind the other, that the numbers begin .. end lie in.
template <typename Use>
void pieces(void **tensors, const std::vector<int64_t> &ends, int64_t begin, int64_t end, Use use) {
  for (size_t k = std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin(); begin < end; ++k) {
    const int64_t first = k ? ends[k - 1] : 0, stop = std::min(end, ends[k]);
    use(static_cast<float *>(tensors[k]) + (begin - first), stop - begin);
    begin = stop;
  }
}

}  // namespace

// Bytes of memory that so many ranks share.
extern "C" int64_t bytes_shared(int size) {
  return sizeof(Meeting) + 2 * size * (sizeof(int64_t) + kBlock * sizeof(float));
}

// Use the file, filled with zeros, from now on; 0 where that is possible.
extern "C" int share(int file, int rank, int size) {
  void *memory = mmap(nullptr, bytes_shared(size), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return 1;
  meeting = static_cast<Meeting *>(memory);
  own = rank;
  ranks = size;
  return 0;
}

// tensors: any number of them, then as many means
extern "C" int mean_over_ranks(int count, void **tensors, int *dimensions, int64_t **shapes, const char **, void *,
                               void *) {
  const int inputs = count / 2;
  std::vector<int64_t> ends(inputs);
  for (int k = 0; k < inputs; ++k)
    ends[k] = (k ? ends[k - 1] : 0) +
              std::accumulate(shapes[k], shapes[k] + dimensions[k], int64_t{1}, std::multiplies<int64_t>());
  const int64_t all = ends.back();
  for (int64_t begin = 0; begin < all; begin += kBlock, place = 1 - place) {
    const int64_t end = std::min(all, begin + kBlock);
    float *mine = block(place, own);
    pieces(tensors, ends, begin, end, [&](const float *values, int64_t size) { mine = std::copy_n(values, size, mine); });
    sizes(place)[own] = all;
    meet();
    if (std::any_of(sizes(place), sizes(place) + ranks, [&](int64_t size) { return size != all; })) return 1;
    int64_t done = 0;
    pieces(tensors + inputs, ends, begin, end, [&](float *means, int64_t size) {
      for (int64_t i = 0; i < size; ++i) means[i] = block(place, 0)[done + i];
      for (int rank = 1; rank < ranks; ++rank) {
        const float *other = block(place, rank) + done;
        for (int64_t i = 0; i < size; ++i) means[i] += other[i];
      }
      for (int64_t i = 0; i < size; ++i) means[i] /= ranks;
      done += size;
    });
  }
  return 0;
}
