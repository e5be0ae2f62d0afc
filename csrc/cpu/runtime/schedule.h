// How the clouds of a batch are divided among threads: some get all threads, one cloud after the
// other, and the rest get one thread each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "cpu/runtime/thread_pool.h"
#include "tsloss.h"

namespace tsloss {

// Calls one(cloud, slot, threads) once for each cloud of the batch. Where clouds differ in size,
// the largest come first. A cloud gets all threads if its cost is more than a thread's share of
// what is left and `worth(cloud)` holds; from the first cloud on that does not, each gets one
// thread.
template <class Cost, class Worth, class One>
void for_each_cloud(const BatchShape& shape, int threads, const Cost& cost, const Worth& worth,
                    const One& one) {
  const int64_t batch = shape.batch;
  if (threads == 1 || !(shape.lengths || shape.offsets)) {
    if (batch >= threads) {
      parallel_for(batch, threads, [&](int64_t cloud, int slot) { one(cloud, slot, 1); });
    } else {
      for (int64_t cloud = 0; cloud < batch; ++cloud) one(cloud, 0, threads);
    }
    return;
  }
  std::vector<double> costs(static_cast<size_t>(batch));
  for (int64_t cloud = 0; cloud < batch; ++cloud) costs[cloud] = cost(cloud);
  std::vector<int64_t> order(static_cast<size_t>(batch));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return costs[a] > costs[b]; });
  double left = std::accumulate(costs.begin(), costs.end(), 0.0);
  int64_t shared = 0;
  for (; shared < batch; ++shared) {
    const int64_t cloud = order[shared];
    if (costs[cloud] * threads <= left || !worth(cloud)) break;
    one(cloud, 0, threads);
    left -= costs[cloud];
  }
  parallel_for(batch - shared, threads,
               [&](int64_t task, int slot) { one(order[shared + task], slot, 1); });
}

}  // namespace tsloss
