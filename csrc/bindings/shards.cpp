// Clouds that are shared out over processes, for tsloss_fast/distributed.
#include "bindings/bindings.h"

#include <algorithm>
#include <memory>
#include <tuple>
#include <vector>

#include "cpu/kernels/kernels.h"
#include "cpu/runtime/monitor.h"
#include "cpu/shards/shards.h"

namespace tsloss {
namespace bindings {
namespace {

void write_edges(const std::vector<Edge<double>>& edges, double* keys, int64_t* ends) {
  for (size_t k = 0; k < edges.size(); ++k) {
    if (keys) keys[k] = edges[k].length;
    ends[2 * k] = edges[k].i;
    ends[2 * k + 1] = edges[k].j;
  }
}

// Rows of the core: padded to a multiple of kLanes numbers, and at least one.
int64_t row_stride(int64_t dim) { return round_up(std::max<int64_t>(dim, 1), kLanes); }

// A filter, with the type and the stride that its rows must have.
struct RowFilter {
  std::unique_ptr<ShardFilter> filter;
  Type type;
  int64_t stride;
};

}  // namespace

void bind_shards(py::module_& m) {
  py::class_<RowFilter>(m, "ShardFilter")
      .def(py::init([](int dtype, int metric, int64_t dim, double largest, bool lattice,
                       bool robust, int threads) {
             const auto type = static_cast<Dtype>(dtype);
             return RowFilter{make_shard_filter(type, {dim, term_of(static_cast<Metric>(metric)),
                                                       largest, lattice, robust, threads}),
                              type == Dtype::kFloat64 ? kDouble : kSingle, row_stride(dim)};
           }),
           py::arg("dtype"), py::arg("metric"), py::arg("dim"), py::arg("largest"),
           py::arg("lattice"), py::arg("robust"), py::arg("threads"))
      .def(
          "set_forest",
          [](RowFilter& self, py::handle keys, py::handle edges) {
            const Array of_keys(keys, "keys");
            const int64_t count = of_keys.leading(0);
            const double* from = of_keys.at<double>({count});
            const int64_t* ends = Array(edges, "edges").at<int64_t>({count, 2});
            py::gil_scoped_release release;
            self.filter->set_forest(count + 1, from, ends);
          },
          py::arg("keys"), py::arg("edges"))
      .def(
          "load",
          [](RowFilter& self, int64_t slot, py::handle rows, py::handle ids) {
            // Their memory stays the caller's: it is in use for as long as the slot.
            const Array block(rows, "rows");
            const int64_t count = block.leading(1);
            const void* from = block.at(self.type, {count, self.stride});
            const int64_t* numbers = Array(ids, "ids").at<int64_t>({count});
            py::gil_scoped_release release;
            self.filter->load(slot, from, numbers, count);
          },
          py::arg("slot"), py::arg("rows"), py::arg("ids"))
      .def(
          "near",
          [](RowFilter& self, int64_t a, int64_t b) {
            Monitor monitor(poll, nullptr);
            self.filter->near(a, b);
            return self.filter->result().size();
          },
          release(), py::arg("a"), py::arg("b"))
      .def(
          "between",
          [](RowFilter& self, int64_t a, int64_t b) {
            Monitor monitor(poll, nullptr);
            self.filter->between(a, b);
            return self.filter->result().size();
          },
          release(), py::arg("a"), py::arg("b"))
      .def(
          "result",
          [](const RowFilter& self, py::handle keys, py::handle edges) {
            const auto count = static_cast<int64_t>(self.filter->result().size());
            write_edges(self.filter->result(), Array(keys, "keys").at<double>({count}),
                        Array(edges, "edges").at<int64_t>({count, 2}));
          },
          py::arg("keys"), py::arg("edges"))
      .def_property_readonly("lost_digits",
                             [](const RowFilter& self) { return self.filter->lost_digits(); });

  m.def(
      "load_shard",
      [](int metric, py::handle points, py::handle rows, py::handle ids, py::handle joined,
         int threads) {
        const Array x(points, "points"), block(rows, "rows");
        const Dtype dtype = x.real();
        const int64_t n = x.leading(1), dim = x.size(0);
        const void* from = x.at(x.type(), {n, dim});
        void* to = block.at(
            dtype == Dtype::kFloat64 || static_cast<Metric>(metric) == Metric::kCosine ? kDouble
                                                                                       : kSingle,
            {n, row_stride(dim)});
        int64_t* to_ids = Array(ids, "ids").at<int64_t>({n});
        int64_t* to_joined = Array(joined, "edges").at<int64_t>({std::max<int64_t>(n - 1, 0), 2});
        py::gil_scoped_release release;
        const Shard shard =
            load_shard(dtype, static_cast<Metric>(metric), from, n, dim, to, threads);
        std::copy(shard.ids.begin(), shard.ids.end(), to_ids);
        write_edges(shard.joined, nullptr, to_joined);
        return std::make_tuple(static_cast<int>(shard.finding.problem), shard.finding.i,
                               shard.ids.size(), shard.largest, shard.lattice);
      },
      py::arg("metric"), py::arg("points"), py::arg("rows"), py::arg("ids"), py::arg("joined"),
      py::arg("threads"));

  m.def(
      "spanning_forest",
      [](int64_t n, py::handle keys, py::handle edges) {
        const Array of_keys(keys, "keys");
        const int64_t count = of_keys.leading(0);
        double* const in_place = of_keys.at<double>({count});
        int64_t* const ends = Array(edges, "edges").at<int64_t>({count, 2});
        py::gil_scoped_release release;
        return spanning_forest(n, count, in_place, ends);
      },
      py::arg("n"), py::arg("keys"), py::arg("edges"));

  m.def(
      "exact_keys",
      [](int metric, bool robust, py::handle rows, py::handle a, py::handle b, py::handle keys) {
        const Array block(rows, "rows"), first(a, "a");
        const Dtype dtype = block.real();
        const int64_t count = first.leading(0), stride = block.size(0);
        const void* from = block.at(block.type(), {block.leading(1), stride});
        const int64_t* of_a = first.at<int64_t>({count});
        const int64_t* of_b = Array(b, "b").at<int64_t>({count});
        double* to = Array(keys, "keys").at<double>({count});
        py::gil_scoped_release release;
        exact_keys(dtype, static_cast<Metric>(metric), robust, from, stride, count, of_a, of_b, to);
      },
      py::arg("metric"), py::arg("robust"), py::arg("rows"), py::arg("a"), py::arg("b"),
      py::arg("keys"));

  m.def(
      "merge_order",
      [](py::handle edges, py::handle order, py::handle rank) {
        const Array tree(edges, "edges");
        const int64_t bars = tree.leading(1);
        const int64_t* from = tree.at<int64_t>({bars, 2});
        int32_t* to_order = Array(order, "order").at<int32_t>({bars + 1});
        int32_t* to_rank = Array(rank, "rank").at<int32_t>({bars + 1});
        py::gil_scoped_release release;
        merge_order(bars + 1, from, to_order, to_rank);
      },
      py::arg("edges"), py::arg("order"), py::arg("rank"));

  m.def(
      "keys_in_range",
      [](int dtype, int metric, int64_t dim, py::handle keys) {
        const Array of_keys(keys, "keys");
        const int64_t count = of_keys.leading(0);
        return keys_in_range(static_cast<Dtype>(dtype), static_cast<Metric>(metric), dim, count,
                             of_keys.at<double>({count}));
      },
      py::arg("dtype"), py::arg("metric"), py::arg("dim"), py::arg("keys"));

  m.def(
      "finish_tree",
      [](int metric, bool robust, py::handle keys, py::handle edges, py::handle deaths,
         py::handle sorted_edges) {
        const Array of_keys(keys, "keys"), bars(deaths, "deaths");
        const Dtype dtype = bars.real();
        const int64_t count = of_keys.leading(0);
        const double* from = of_keys.at<double>({count});
        const int64_t* ends = Array(edges, "edges").at<int64_t>({count, 2});
        void* to_deaths = bars.at(bars.type(), {count});
        int64_t* to_edges = Array(sorted_edges, "edges").at<int64_t>({count, 2});
        Finding finding;
        {
          py::gil_scoped_release release;
          finding = finish_tree(dtype, static_cast<Metric>(metric), robust, count, from, ends,
                                to_deaths, to_edges);
        }
        return finding_or_none(finding);
      },
      py::arg("metric"), py::arg("robust"), py::arg("keys"), py::arg("edges"), py::arg("deaths"),
      py::arg("sorted_edges"));
}

}  // namespace bindings
}  // namespace tsloss
