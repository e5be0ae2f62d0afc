// Where the deaths and edges of one cloud of a batch are written, and the log of problems.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <mutex>
#include <vector>

#include "cpu/tree/tree.h"
#include "tsloss.h"

namespace tsloss {

template <class T>
class Output {
 public:
  Output(T* deaths, int64_t* edges, const BatchShape& shape, int64_t cloud)
      : deaths_(deaths + shape.first_bar(cloud)),
        edges_(edges + 2 * shape.first_bar(cloud)),
        bars_(shape.bars_of(cloud)) {}

  void fill_padding(int64_t valid_points) {
    const int64_t used = std::max<int64_t>(valid_points - 1, 0);
    std::fill(deaths_ + used, deaths_ + bars_, T{0});
    std::fill(edges_ + 2 * used, edges_ + 2 * bars_, int64_t{-1});
  }

  // Writes NaN deaths, with the edges of a path, since the gradient (NaN as well) is routed through
  // some spanning tree.
  void fill_nan(int64_t valid_points) {
    for (int64_t k = 0; k + 1 < valid_points; ++k) {
      deaths_[k] = std::numeric_limits<T>::quiet_NaN();
      edges_[2 * k] = k;
      edges_[2 * k + 1] = k + 1;
    }
  }

  void write(const std::vector<Edge<T>>& edges) {
    for (size_t k = 0; k < edges.size(); ++k) {
      deaths_[k] = edges[k].length;
      edges_[2 * k] = edges[k].i;
      edges_[2 * k + 1] = edges[k].j;
    }
  }

 private:
  T* deaths_;
  int64_t* edges_;
  int64_t bars_;
};

// Keeps the finding of the lowest cloud, independently of the order in which threads add them.
class FindingLog {
 public:
  void add(Finding found, int64_t cloud) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (first_.problem != Problem::kNone && first_.cloud <= cloud) return;
    first_ = found;
    first_.cloud = cloud;
  }
  Finding first() const { return first_; }

 private:
  std::mutex mutex_;
  Finding first_;
};

}  // namespace tsloss
