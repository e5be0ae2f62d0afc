// Clouds that are shared out over processes, for tsloss_fast/distributed.
#include "bindings/bindings.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "cpu/monitor.h"
#include "cpu/shards.h"

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

}  // namespace

void bind_shards(py::module_& m) {
  py::class_<ShardFilter>(m, "ShardFilter")
      .def(py::init([](int dtype, int metric, int64_t dim, double largest, bool lattice,
                       bool robust, int threads) {
             return make_shard_filter(
                 static_cast<Dtype>(dtype),
                 {dim, term_of(static_cast<Metric>(metric)), largest, lattice, robust, threads});
           }),
           py::arg("dtype"), py::arg("metric"), py::arg("dim"), py::arg("largest"),
           py::arg("lattice"), py::arg("robust"), py::arg("threads"))
      .def(
          "set_forest",
          [](ShardFilter& filter, int64_t n, Address keys, Address edges) {
            filter.set_forest(n, out_f64(keys), in_i64(edges));
          },
          release(), py::arg("n"), py::arg("keys"), py::arg("edges"))
      .def(
          "load",
          [](ShardFilter& filter, int64_t slot, Address rows, Address ids, int64_t count) {
            filter.load(slot, in(rows), in_i64(ids), count);
          },
          release(), py::arg("slot"), py::arg("rows"), py::arg("ids"), py::arg("count"))
      .def(
          "near",
          [](ShardFilter& filter, int64_t a, int64_t b) {
            Monitor monitor(poll, nullptr);
            filter.near(a, b);
            return filter.result().size();
          },
          release(), py::arg("a"), py::arg("b"))
      .def(
          "between",
          [](ShardFilter& filter, int64_t a, int64_t b) {
            Monitor monitor(poll, nullptr);
            filter.between(a, b);
            return filter.result().size();
          },
          release(), py::arg("a"), py::arg("b"))
      .def(
          "result",
          [](const ShardFilter& filter, Address keys, Address edges) {
            write_edges(filter.result(), out_f64(keys), out_i64(edges));
          },
          py::arg("keys"), py::arg("edges"))
      .def_property_readonly("lost_digits", &ShardFilter::lost_digits);

  m.def(
      "load_shard",
      [](int dtype, int metric, Address points, int64_t n, int64_t dim, Address rows, Address ids,
         Address joined, int threads) {
        const Shard shard = load_shard(static_cast<Dtype>(dtype), static_cast<Metric>(metric),
                                       in(points), n, dim, out(rows), threads);
        std::copy(shard.ids.begin(), shard.ids.end(), out_i64(ids));
        write_edges(shard.joined, nullptr, out_i64(joined));
        return std::make_tuple(static_cast<int>(shard.finding.problem), shard.finding.i,
                               shard.ids.size(), shard.largest, shard.lattice);
      },
      release(), py::arg("dtype"), py::arg("metric"), py::arg("points"), py::arg("n"),
      py::arg("dim"), py::arg("rows"), py::arg("ids"), py::arg("joined"), py::arg("threads"));

  m.def(
      "spanning_forest",
      [](int64_t n, int64_t count, Address keys, Address edges) {
        return spanning_forest(n, count, out_f64(keys), out_i64(edges));
      },
      release(), py::arg("n"), py::arg("count"), py::arg("keys"), py::arg("edges"));

  m.def(
      "exact_keys",
      [](int dtype, int metric, bool robust, Address rows, int64_t stride, int64_t count, Address a,
         Address b, Address keys) {
        exact_keys(static_cast<Dtype>(dtype), static_cast<Metric>(metric), robust, in(rows), stride,
                   count, in_i64(a), in_i64(b), out_f64(keys));
      },
      release(), py::arg("dtype"), py::arg("metric"), py::arg("robust"), py::arg("rows"),
      py::arg("stride"), py::arg("count"), py::arg("a"), py::arg("b"), py::arg("keys"));

  m.def(
      "merge_order",
      [](int64_t n, Address edges, Address order, Address rank) {
        merge_order(n, in_i64(edges), static_cast<int32_t*>(out(order)),
                    static_cast<int32_t*>(out(rank)));
      },
      release(), py::arg("n"), py::arg("edges"), py::arg("order"), py::arg("rank"));

  m.def(
      "keys_in_range",
      [](int dtype, int metric, int64_t dim, int64_t count, Address keys) {
        return keys_in_range(static_cast<Dtype>(dtype), static_cast<Metric>(metric), dim, count,
                             out_f64(keys));
      },
      py::arg("dtype"), py::arg("metric"), py::arg("dim"), py::arg("count"), py::arg("keys"));

  m.def(
      "finish_tree",
      [](int dtype, int metric, bool robust, int64_t count, Address keys, Address edges,
         Address deaths, Address sorted_edges) {
        return tuple_of(finish_tree(static_cast<Dtype>(dtype), static_cast<Metric>(metric), robust,
                                    count, out_f64(keys), in_i64(edges), out(deaths),
                                    out_i64(sorted_edges)));
      },
      release(), py::arg("dtype"), py::arg("metric"), py::arg("robust"), py::arg("count"),
      py::arg("keys"), py::arg("edges"), py::arg("deaths"), py::arg("sorted_edges"));
}

}  // namespace bindings
}  // namespace tsloss
