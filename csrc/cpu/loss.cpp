// The scale-free loss of deaths and its derivatives, in one pass. There are few deaths, so separate
// tensor operations would spend most of the time of a loss on their overhead.
#include <algorithm>
#include <cmath>

#include "cpu/rows.h"
#include "tsloss.h"

namespace tsloss {
namespace {

// The mean of a value over the clouds, and the derivatives of this mean with respect to the deaths.
template <class T>
class Mean {
 public:
  Mean(const DerivedValue& out, const BatchShape& shape)
      : value_(static_cast<T*>(out.value)), grad_(static_cast<T*>(out.grad)), shape_(shape) {
    if (grad_) std::fill_n(grad_, shape.batch * shape.bars(), T{0});
  }
  void add(double value) { sum_ += value; }
  void derivative(int64_t cloud, int64_t bar, double slope) {
    if (grad_) grad_[cloud * shape_.bars() + bar] = static_cast<T>(slope);
  }
  void write() {
    if (value_) *value_ = static_cast<T>(shape_.batch > 0 ? sum_ / double(shape_.batch) : 0.0);
  }

 private:
  T* value_;
  T* grad_;
  const BatchShape& shape_;
  double sum_ = 0;
};

// Returns the number of clouds whose bars are all 0; see scale_free_loss.
template <class T>
int64_t loss_of(const BatchShape& shape, const T* deaths, double connectivity, double redundancy,
                double rho, Mean<T> total, Mean<T> spread_of, Mean<T> shortness_of) {
  int64_t coincident = 0;
  for (int64_t b = 0; b < shape.batch; ++b, deaths += shape.bars()) {
    const int64_t count = std::max<int64_t>(shape.valid(b) - 1, 0);
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
    // Deaths are scaled to about 1, so that their sum and its inverse stay in the range of double.
    // A power of two scales them exactly.
    const PowerOfTwo scale(std::isfinite(largest) ? -std::ilogb(largest) : 0);
    double mean = 0;
    for (int64_t k = 0; k < count; ++k) mean += scale(double(deaths[k]));
    mean /= double(count);
    // Let r = d / m and s = max(0, 1 - r / rho), for M deaths d with mean m. The derivative of
    // mean((r - 1)^2) with respect to d_k is 2 / (M m) (r_k - 1 - mean((r - 1) r)), and that of
    // mean(s^2) is 2 / (M m) (mean(s r) - s_k) / rho.
    double spread = 0, pull = 0, shortness = 0, lift = 0;
    for (int64_t k = 0; k < count; ++k) {
      const double r = scale(double(deaths[k])) / mean;
      const double s = std::max(0.0, 1 - r / rho);
      spread += (r - 1) * (r - 1);
      pull += (r - 1) * r;
      shortness += s * s;
      lift += s * r / rho;
    }
    total.add((connectivity * spread + redundancy * shortness) / double(count));
    spread_of.add(spread / double(count));
    shortness_of.add(shortness / double(count));
    const double unit = 2 / (double(count) * mean * double(shape.batch));
    for (int64_t k = 0; k < count; ++k) {
      const double r = scale(double(deaths[k])) / mean;
      const double s = std::max(0.0, 1 - r / rho);
      const double of_spread = r - 1 - pull / double(count);
      const double of_shortness = lift / double(count) - s / rho;
      total.derivative(b, k, scale(unit * (connectivity * of_spread + redundancy * of_shortness)));
      spread_of.derivative(b, k, scale(unit * of_spread));
      shortness_of.derivative(b, k, scale(unit * of_shortness));
    }
  }
  total.write();
  spread_of.write();
  shortness_of.write();
  return coincident;
}

template <class T>
void weighted_sum_of(int64_t count, const Weighted* parts, int parts_count, T* sum) {
  for (int p = 0; p < parts_count; ++p) {
    const T* numbers = static_cast<const T*>(parts[p].numbers);
    const T weight = *static_cast<const T*>(parts[p].weight);
    for (int64_t k = 0; k < count; ++k) {
      const T product = numbers[k] * weight;
      sum[k] = p == 0 ? product : sum[k] + product;
    }
  }
}

}  // namespace

void weighted_sum(Dtype dtype, int64_t count, const Weighted* parts, int parts_count, void* sum) {
  if (dtype == Dtype::kFloat64) {
    weighted_sum_of(count, parts, parts_count, static_cast<double*>(sum));
  } else {
    weighted_sum_of(count, parts, parts_count, static_cast<float*>(sum));
  }
}

int64_t scale_free_loss(Dtype dtype, const BatchShape& shape, const void* deaths,
                        double connectivity, double redundancy, double rho,
                        const DerivedValue& loss, const DerivedValue& spread,
                        const DerivedValue& shortness) {
  const auto as = [&](auto number) {
    using T = decltype(number);
    return loss_of<T>(shape, static_cast<const T*>(deaths), connectivity, redundancy, rho,
                      {loss, shape}, {spread, shape}, {shortness, shape});
  };
  return dtype == Dtype::kFloat64 ? as(0.0) : as(0.0f);
}

}  // namespace tsloss
