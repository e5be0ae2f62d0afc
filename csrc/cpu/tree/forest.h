// Minimum spanning forests of lists of edges, and the order of the points that a tree defines.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/tree/union_find.h"

namespace tsloss {

// An edge between two of the points at hand, in half the memory. The key may be a fast one.
template <class T>
struct Link {
  T key;
  int32_t i;
  int32_t j;
};

// Sorts by key alone, ascending; links with equal keys keep their order. Keys are >= 0, so their
// bits sort like integers, and a radix sort is several times faster than a comparison sort for
// lists of this size.
template <class T>
void sort_by_key(std::vector<Link<T>>& links, std::vector<Link<T>>& scratch) {
  if (links.size() < 512) {
    std::stable_sort(links.begin(), links.end(),
                     [](const Link<T>& a, const Link<T>& b) { return a.key < b.key; });
    return;
  }
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr int kDigit = 11;
  constexpr int kRounds = (8 * sizeof(T) + kDigit - 1) / kDigit;
  const auto bits = [](const Link<T>& link) {
    Bits b;
    const T key = link.key + T{0};  // -0 becomes 0
    std::memcpy(&b, &key, sizeof b);
    return b;
  };
  std::vector<std::vector<size_t>> count(kRounds, std::vector<size_t>(size_t{1} << kDigit));
  for (const Link<T>& link : links) {
    Bits b = bits(link);
    for (int r = 0; r < kRounds; ++r, b >>= kDigit) ++count[r][b & ((1 << kDigit) - 1)];
  }
  scratch.resize(links.size());
  for (int r = 0; r < kRounds; ++r) {
    if (*std::max_element(count[r].begin(), count[r].end()) == links.size()) continue;
    size_t sum = 0;
    for (size_t& c : count[r]) sum += std::exchange(c, sum);
    for (const Link<T>& link : links) {
      scratch[count[r][(bits(link) >> (r * kDigit)) & ((1 << kDigit) - 1)]++] = link;
    }
    links.swap(scratch);
  }
}

// Keeps the links of the minimum spanning forest, by Kruskal's algorithm. The links must be sorted;
// among equal keys the first in the list wins.
template <class E>
void keep_forest(std::vector<E>& links, UnionFind& sets, int64_t n) {
  sets.reset(n);
  size_t kept = 0;
  for (const E& link : links) {
    const int64_t a = sets.find(link.i), b = sets.find(link.j);
    if (a == b) continue;
    sets.unite(a, b);
    links[kept++] = link;
    if (static_cast<int64_t>(kept) == n - 1) break;
  }
  links.erase(links.begin() + static_cast<std::ptrdiff_t>(kept), links.end());
}

// Keeps the minimum spanning forest of links in any order whose keys are exact. Ties are broken by
// the indices.
template <class E>
void keep_exact_forest(std::vector<E>& links, UnionFind& sets, int64_t n) {
  std::sort(links.begin(), links.end());
  keep_forest(links, sets, n);
}

// Keeps the contenders: those of the sorted links that could be in the minimum spanning forest if
// every key is known up to a factor of sqrt(band) either way. A link is dropped if its ends are
// already connected by links that are certainly shorter.
inline void keep_contenders(std::vector<Link<double>>& links, UnionFind& sets, int64_t n,
                            double band) {
  sets.reset(n);
  std::vector<Link<double>> kept;
  size_t certain = 0;
  for (const Link<double>& link : links) {
    for (; links[certain].key * band < link.key; ++certain) {
      const int64_t a = sets.find(links[certain].i), b = sets.find(links[certain].j);
      if (a != b) sets.unite(a, b);
    }
    if (sets.find(link.i) != sets.find(link.j)) kept.push_back(link);
  }
  links.swap(kept);
}

// The order in which single linkage lines the points up: every cluster is an interval. rank[p] is
// the place in `tree`, which is sorted, of the edge that joined the points at p - 1 and p; rank[0]
// is 0. The longest edge on the tree path between the points at p < q has the largest of
// rank[p + 1 .. q].
template <class E>
void merge_order(const std::vector<E>& tree, UnionFind& sets, int64_t n,
                 std::vector<int32_t>& order, std::vector<int32_t>& rank) {
  sets.reset(n);
  const size_t count = static_cast<size_t>(n);
  std::vector<int32_t> head(count), tail(count), next(count, -1);
  std::vector<int32_t> before(count, 0);  // the rank
  for (size_t v = 0; v < count; ++v) head[v] = tail[v] = static_cast<int32_t>(v);
  int64_t root = 0;
  for (size_t k = 0; k < tree.size(); ++k) {
    const int64_t a = sets.find(tree[k].i), b = sets.find(tree[k].j);
    root = sets.unite(a, b);
    const int64_t other = root == a ? b : a;
    next[tail[root]] = head[other];
    before[head[other]] = static_cast<int32_t>(k);
    tail[root] = tail[other];
  }
  order.clear();
  rank.clear();
  for (int32_t v = head[root]; v >= 0; v = next[v]) {
    order.push_back(v);
    rank.push_back(before[v]);
  }
}

}  // namespace tsloss
