// Prim without the matrix: at each step the keys of the newest vertex to all vertices outside the
// tree are computed and forgotten. The vertices outside are kept contiguous, so the work is n^2/2
// pairs.
#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu/thread_pool.h"
#include "cpu/tree.h"

namespace tsloss {
namespace {

// Enough pairs that a task outweighs its dispatch (about 5 microseconds).
constexpr int64_t kTaskNumbers = int64_t{1} << 18;

}  // namespace

template <class T>
bool prim_streaming(T* data, int64_t stride, int64_t dim, int64_t n, Term term, int threads,
                    Edge<T>* edges) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  const auto row = kernels<T>().row;
  const Rows<T> rows{data, stride, dim};
  std::vector<int64_t> id(static_cast<size_t>(n));
  std::iota(id.begin(), id.end(), int64_t{0});
  std::vector<int64_t> from(static_cast<size_t>(n));
  std::vector<T> best(static_cast<size_t>(n), kInf);
  Buffer<T> keys;
  Buffer<T> newest;
  keys.reserve(n);
  newest.reserve(dim);

  const int64_t grain = round_up(std::max<int64_t>(kTaskNumbers / dim, 64), 64);
  std::vector<Edge<T>> least(static_cast<size_t>(round_up(n, grain) / grain));
  std::vector<int64_t> where(least.size());

  int64_t outside = n;
  const auto remove = [&](int64_t slot) {
    --outside;
    std::copy_n(data + slot * stride, dim, newest.data());
    std::copy_n(data + outside * stride, dim, data + slot * stride);
    id[slot] = id[outside];
    from[slot] = from[outside];
    best[slot] = best[outside];
  };

  int64_t u = 0;
  remove(0);
  for (int64_t k = 0; k + 1 < n; ++k) {
    const int64_t tasks = (outside + grain - 1) / grain;
    parallel_for(tasks, threads, [&](int64_t task, int) {
      const int64_t begin = task * grain;
      const int64_t end = std::min(outside, begin + grain);
      row(rows, term, newest.data(), begin, end, keys.data());
      Edge<T> low{kInf, n, n};
      for (int64_t s = begin; s < end; ++s) {
        const T key = keys.data()[s];
        if (key < best[s] || (key == best[s] && u < from[s])) {
          best[s] = key;
          from[s] = u;
        }
        if (best[s] > low.length) continue;
        const Edge<T> edge{best[s], std::min(from[s], id[s]), std::max(from[s], id[s])};
        if (edge < low) {
          low = edge;
          where[task] = s;
        }
      }
      least[task] = low;
    });
    const auto winner = std::min_element(least.begin(), least.begin() + tasks);
    if (!(winner->length < kInf)) return false;
    edges[k] = *winner;
    const int64_t slot = where[winner - least.begin()];
    u = id[slot];
    remove(slot);
  }
  return true;
}

template bool prim_streaming(float*, int64_t, int64_t, int64_t, Term, int, Edge<float>*);
template bool prim_streaming(double*, int64_t, int64_t, int64_t, Term, int, Edge<double>*);

}  // namespace tsloss
