// The scale-free loss of deaths and its derivatives, in one pass: a handful of numbers, for which
// the overhead of one tensor operation after the other would be most of the time of a loss.
#include <algorithm>
#include <cmath>

#include "cpu/rows.h"
#include "tsloss.h"

namespace tsloss {
namespace {

template <class T>
int64_t loss_of(const BatchShape& shape, const T* deaths, double connectivity, double redundancy,
                double rho, T* loss, T* grad) {
  const int64_t bars = shape.bars();
  double total = 0;
  int64_t coincident = 0;
  for (int64_t b = 0; b < shape.batch; ++b, deaths += bars, grad += bars) {
    const int64_t count = std::max<int64_t>(shape.valid(b) - 1, 0);
    std::fill_n(grad, bars, T{0});
    if (count == 0) continue;
    double largest = 0;
    for (int64_t k = 0; k < count; ++k) {
      const double d = double(deaths[k]);
      if (d > largest || std::isnan(d)) largest = d;
    }
    if (largest == 0) {
      ++coincident;
      continue;
    }
    // Deaths of about 1, whose sum and its inverse stay in the range of double. The scale is exact.
    const PowerOfTwo scale(std::isfinite(largest) ? -std::ilogb(largest) : 0);
    double mean = 0;
    for (int64_t k = 0; k < count; ++k) mean += scale(double(deaths[k]));
    mean /= double(count);
    // With r = d / m, s = max(0, 1 - r / rho): d mean((r - 1)^2) / d d_k
    //   = 2 / (M m) (r_k - 1 - mean((r - 1) r)), and likewise for s^2.
    double spread = 0, pull = 0, shortness = 0, lift = 0;
    for (int64_t k = 0; k < count; ++k) {
      const double r = scale(double(deaths[k])) / mean;
      const double s = std::max(0.0, 1 - r / rho);
      spread += (r - 1) * (r - 1);
      pull += (r - 1) * r;
      shortness += s * s;
      lift += s * r / rho;
    }
    total += (connectivity * spread + redundancy * shortness) / double(count);
    const double unit = 2 / (double(count) * mean * double(shape.batch));
    for (int64_t k = 0; k < count; ++k) {
      const double r = scale(double(deaths[k])) / mean;
      const double s = std::max(0.0, 1 - r / rho);
      const double slope = unit * (connectivity * (r - 1 - pull / double(count)) +
                                   redundancy * (lift / double(count) - s / rho));
      grad[k] = static_cast<T>(scale(slope));
    }
  }
  *loss = static_cast<T>(shape.batch > 0 ? total / double(shape.batch) : 0.0);
  return coincident;
}

}  // namespace

int64_t scale_free_loss(Dtype dtype, const BatchShape& shape, const void* deaths,
                        double connectivity, double redundancy, double rho, void* loss,
                        void* grad) {
  if (dtype == Dtype::kFloat64) {
    return loss_of(shape, static_cast<const double*>(deaths), connectivity, redundancy, rho,
                   static_cast<double*>(loss), static_cast<double*>(grad));
  }
  return loss_of(shape, static_cast<const float*>(deaths), connectivity, redundancy, rho,
                 static_cast<float*>(loss), static_cast<float*>(grad));
}

}  // namespace tsloss
