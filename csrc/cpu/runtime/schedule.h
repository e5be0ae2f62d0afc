// Which clouds of a batch get all threads one after the other, and which one thread each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "cpu/runtime/thread_pool.h"
#include "tsloss.h"

namespace tsloss {

// Calls one(cloud, slot, threads) for each cloud of the batch, once. Where clouds differ in size,
// the largest come first: by all threads while one of them is more than a thread's share of what is
// left and `worth(cloud)`, the rest by a thread each.
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
