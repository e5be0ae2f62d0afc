// The exact loss of points in one call, and its gradient at the points in another. Between them an
// object of the core keeps what the gradient needs, which is cheaper than tensors.
#include <cstring>
#include <memory>

#include "bindings/bindings.h"

namespace tsloss {
namespace bindings {
namespace {

constexpr size_t kMostOutputs = 3;  // the loss and its two terms

// A barcode, and the derivatives of one or more outputs by its deaths. It does not change once it
// is filled, so several threads may use it at once.
struct FusedLoss {
  Metric metric;
  Type type;
  Dtype dtype;
  BatchShape shape;  // without lengths, which the gradient does not need
  size_t outputs;
  Buffer<char> deaths, slopes;
  Buffer<int64_t> edges;

  int64_t numbers() const { return shape.batch * shape.bars(); }
  int64_t bytes() const { return numbers() * (type.bits / 8); }
};

py::tuple fused_loss(int metric, py::handle points, py::handle lengths, py::handle deaths,
                     py::handle edges, double connectivity, double redundancy, double rho,
                     bool terms, int threads) {
  const Array x(points, "points");
  const Dtype dtype = x.real();
  const Batch batch(x, lengths, py::none());
  const BatchShape& shape = batch.shape;
  check_lengths(shape);
  const int64_t width = x.type().bits / 8;
  const int64_t numbers = checked_mul(shape.batch, shape.bars(), width);
  auto kept = std::make_unique<FusedLoss>();
  kept->metric = static_cast<Metric>(metric);
  kept->type = x.type();
  kept->dtype = dtype;
  kept->shape = {shape.batch, shape.points, shape.dim};
  kept->outputs = terms ? kMostOutputs : 1;
  char* to_deaths = kept->deaths.reserve(numbers, width);
  int64_t* to_edges = kept->edges.reserve(numbers, 2);
  char* to_slopes = kept->slopes.reserve(numbers, width * static_cast<int64_t>(kept->outputs));

  const bool known = !deaths.is_none();
  const void* from = nullptr;
  if (!known) {
    from = x.at(x.type(), {x.leading(1), shape.dim});
  } else if (numbers > 0) {
    std::memcpy(to_deaths, batch.bars(deaths, "deaths", x.type()), kept->bytes());
    std::memcpy(to_edges, batch.edges(edges), sizeof(int64_t) * 2 * numbers);
  }
  py::tuple values(kept->outputs);
  DerivedValue to[kMostOutputs];
  for (size_t k = 0; k < kept->outputs; ++k) {
    py::object value = new_scalar(x.type());
    to[k] = {Array(value, "value").at(x.type(), {1}), to_slopes + k * kept->bytes()};
    values[k] = std::move(value);
  }
  Finding finding;
  const int64_t coincident = watched([&] {
    if (!known) {
      finding = h0_forward(dtype, kept->metric, shape, from, to_deaths, to_edges, threads);
    }
    return scale_free_loss(dtype, shape, to_deaths, connectivity, redundancy, rho, to[0], to[1],
                           to[2]);
  });
  return py::make_tuple(std::move(kept), values, coincident, finding_or_none(finding));
}

py::object gradient(const FusedLoss& self, py::handle points, const py::tuple& upstream,
                    int threads) {
  const Array x(points, "points");
  const int64_t rows = self.shape.batch * self.shape.points, dim = self.shape.dim;
  const void* from = x.at(self.type, {rows, dim});
  if (upstream.size() != self.outputs) {
    throw py::value_error("upstream: expected " + std::to_string(self.outputs) +
                          " gradients, one for each output, got " +
                          std::to_string(upstream.size()));
  }
  Weighted parts[kMostOutputs];
  int count = 0;
  for (size_t k = 0; k < self.outputs; ++k) {
    const py::handle weight = upstream[k];
    if (weight.is_none()) continue;
    parts[count++] = {self.slopes.data() + k * self.bytes(),
                      Array(weight, "upstream").at(self.type, {1})};
  }
  if (count == 0) return py::none();
  py::object result = empty_like(points);
  void* to = Array(result, "result").at(self.type, {rows, dim});
  watched([&] {
    Buffer<char> of_deaths;
    char* sum = of_deaths.reserve(self.bytes());
    weighted_sum(self.dtype, self.numbers(), parts, count, sum);
    h0_backward(self.dtype, self.metric, self.shape, sum, from, self.deaths.data(),
                self.edges.data(), to, threads);
  });
  return result;
}

}  // namespace

void bind_loss(py::module_& m) {
  py::class_<FusedLoss>(m, "FusedLoss")
      .def("gradient", gradient, py::arg("points"), py::arg("upstream"), py::arg("threads"));
  m.def("fused_loss", fused_loss, py::arg("metric"), py::arg("points"), py::arg("lengths"),
        py::arg("deaths"), py::arg("edges"), py::arg("connectivity"), py::arg("redundancy"),
        py::arg("rho"), py::arg("terms"), py::arg("threads"));
}

}  // namespace bindings
}  // namespace tsloss
