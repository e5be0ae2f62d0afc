// The loss of deaths and its derivatives, against the same in long double.
#include "fuzz_batch.h"
#include "fuzz_targets.h"

namespace fuzz {
namespace {

using namespace tsloss;

template <class T>
void check_loss(const tsloss::BatchShape& shape, const Array<T>& deaths, double connectivity,
                double redundancy, double rho, T value, const Array<T>& grad, int64_t zero) {
  long double total = 0;
  int64_t coincident = 0;
  const int64_t bars = shape.bars();
  bool finite = true;
  for (int64_t b = 0; b < shape.batch; ++b) {
    const T* d = deaths.data() + b * bars;
    const T* g = grad.data() + b * bars;
    const int64_t count = std::max<int64_t>(shape.valid(b) - 1, 0);
    for (int64_t k = count; k < bars; ++k) require(g[k] == 0, "the gradient of padded bars");
    if (count == 0) continue;
    long double mean = 0;
    for (int64_t k = 0; k < count; ++k) mean += d[k];
    mean /= count;
    if (!std::isfinite(mean)) {
      finite = false;
      continue;
    }
    if (mean == 0) {
      ++coincident;
      for (int64_t k = 0; k < count; ++k) require(g[k] == 0, "the gradient of a cloud of copies");
      continue;
    }
    long double spread = 0, shortness = 0, pull = 0, lift = 0;
    for (int64_t k = 0; k < count; ++k) {
      const long double r = d[k] / mean, s = std::max(0.0L, 1 - r / rho);
      spread += (r - 1) * (r - 1);
      pull += (r - 1) * r;
      shortness += s * s;
      lift += s * r / rho;
    }
    total += (connectivity * spread + redundancy * shortness) / count;
    for (int64_t k = 0; k < count; ++k) {
      const long double r = d[k] / mean, s = std::max(0.0L, 1 - r / rho);
      const long double unit = 2 / (count * mean * shape.batch);
      const long double own =
          unit * (connectivity * (r - 1 - pull / count) + redundancy * (lift / count - s / rho));
      const long double size = unit * (connectivity * (std::fabs(r - 1) + pull / count + 1) +
                                       redundancy * (lift / count + s / rho + 1 / rho));
      if (size > std::numeric_limits<T>::max() / 4) continue;
      const long double slack = 4 * std::numeric_limits<T>::epsilon() * std::fabs(own) +
                                1e-13L * count * size + std::numeric_limits<T>::min();
      if (std::fabs(g[k] - own) <= slack) continue;
      std::fprintf(stderr, "bar %lld of length %.17g: %.17g, expected %.17Lg +- %.3Lg\n",
                   static_cast<long long>(k), double(d[k]), double(g[k]), own, slack);
      fail("the gradient of the loss");
    }
  }
  if (!finite) return require(!std::isfinite(value), "the loss of deaths that are not finite");
  require(zero == coincident, "how many clouds have only bars of 0");
  total = shape.batch > 0 ? total / shape.batch : 0;
  require(std::fabs(value - total) <=
              1e-12L * (1 + total) + 2 * std::numeric_limits<T>::epsilon() * total,
          "the loss");
}

}  // namespace

template <class T>
void loss(Input& in) {
  const int64_t batch = in.below(5), n = size_of(in, 100);
  Array<int64_t> lengths(batch);
  for (int64_t b = 0; b < batch; ++b) lengths[b] = in.below(n + 1);
  const BatchShape shape{batch, n, 0, in.flag() ? lengths.data() : nullptr};
  Array<T> deaths(batch * shape.bars(), 1), value(1), grad(batch * shape.bars(), 2);
  fill(in, deaths.data(), batch, shape.bars());
  for (int64_t k = 0; k < deaths.size(); ++k) deaths[k] = std::fabs(deaths[k]);
  const double connectivity = in.below(16) / 4.0, redundancy = in.below(16) / 4.0;
  const double rho = (1 + in.below(16)) / 8.0;
  const int64_t zero = scale_free_loss(dtype_of<T>(), shape, deaths.data(), connectivity,
                                       redundancy, rho, {value.data(), grad.data()});
  check_loss(shape, deaths, connectivity, redundancy, rho, value[0], grad, zero);
}

template void loss<float>(Input& in);
template void loss<double>(Input& in);

}  // namespace fuzz
