// Pointers and sizes in, GIL released, nothing else. Checks of shape and type belong to the caller
// (tsloss_fast/_ops_cpu.py), which alone knows tensors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>

#include "cpu/monitor.h"
#include "cpu/shards.h"
#include "cpu/tuning.h"
#include "tsloss.h"
#ifdef TSLOSS_WITH_CUDA
#include "cuda/launch.h"
#endif

namespace py = pybind11;
using tsloss::BatchShape;
using tsloss::Dtype;
using tsloss::Finding;
using tsloss::Metric;

namespace {

using Address = std::uintptr_t;

const void* in(Address a) { return reinterpret_cast<const void*>(a); }
void* out(Address a) { return reinterpret_cast<void*>(a); }
const int64_t* in_i64(Address a) { return reinterpret_cast<const int64_t*>(a); }
int64_t* out_i64(Address a) { return reinterpret_cast<int64_t*>(a); }

// The progress callback of the calls that this thread makes, or null.
thread_local PyObject* progress = nullptr;

// Called every tenth of a second in a long call: Ctrl-C stops it, with KeyboardInterrupt.
bool poll(void*, double fraction) {
  py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) return false;
  if (!progress) return true;
  PyObject* result = PyObject_CallFunction(progress, "d", fraction);
  Py_XDECREF(result);
  return result != nullptr;
}

double* out_f64(Address a) { return reinterpret_cast<double*>(a); }

std::tuple<int, int64_t, int64_t, int64_t> tuple_of(const Finding& f) {
  return {static_cast<int>(f.problem), f.cloud, f.i, f.j};
}

void write_edges(const std::vector<tsloss::Edge<double>>& edges, double* keys, int64_t* ends) {
  for (size_t k = 0; k < edges.size(); ++k) {
    if (keys) keys[k] = edges[k].length;
    ends[2 * k] = edges[k].i;
    ends[2 * k + 1] = edges[k].j;
  }
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "Native kernels of tsloss_fast. Private: use the functions of tsloss_fast.";
  using release = py::call_guard<py::gil_scoped_release>;
  // The Python error is set already, by whoever asked for the end.
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      std::rethrow_exception(error);
    } catch (const tsloss::Interrupted&) {
      if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, "tsloss_fast: interrupted");
    }
  });

  m.def(
      "set_progress",
      [](py::object callback) {
        PyObject* before = progress;
        progress = callback.is_none() ? nullptr : callback.release().ptr();
        Py_XDECREF(before);
      },
      py::arg("callback"));

  m.def(
      "h0_forward",
      [](int dtype, int metric, Address points, Address lengths, Address deaths, Address edges,
         int64_t batch, int64_t n, int64_t dim, int threads, Address offsets, Address bar_offsets) {
        tsloss::Monitor monitor(poll, nullptr);
        const BatchShape shape{
            batch, n, dim, in_i64(lengths), in_i64(offsets), in_i64(bar_offsets)};
        return tuple_of(tsloss::h0_forward(static_cast<Dtype>(dtype), static_cast<Metric>(metric),
                                           shape, in(points), out(deaths), out_i64(edges),
                                           threads));
      },
      release(), py::arg("dtype"), py::arg("metric"), py::arg("points"), py::arg("lengths"),
      py::arg("deaths"), py::arg("edges"), py::arg("batch"), py::arg("n"), py::arg("dim"),
      py::arg("threads"), py::arg("offsets") = 0, py::arg("bar_offsets") = 0);

  m.def(
      "h0_backward",
      [](int dtype, int metric, Address grad_deaths, Address points, Address deaths, Address edges,
         Address grad_points, int64_t batch, int64_t n, int64_t dim, int threads, Address offsets,
         Address bar_offsets) {
        tsloss::Monitor monitor(poll, nullptr);
        const BatchShape shape{batch, n, dim, nullptr, in_i64(offsets), in_i64(bar_offsets)};
        tsloss::h0_backward(static_cast<Dtype>(dtype), static_cast<Metric>(metric), shape,
                            in(grad_deaths), in(points), in(deaths), in_i64(edges),
                            out(grad_points), threads);
      },
      release(), py::arg("dtype"), py::arg("metric"), py::arg("grad_deaths"), py::arg("points"),
      py::arg("deaths"), py::arg("edges"), py::arg("grad_points"), py::arg("batch"), py::arg("n"),
      py::arg("dim"), py::arg("threads"), py::arg("offsets") = 0, py::arg("bar_offsets") = 0);

  m.def(
      "h0_from_distances",
      [](int dtype, Address distances, Address lengths, double symmetry_tolerance, Address deaths,
         Address edges, int64_t batch, int64_t n, int threads) {
        tsloss::Monitor monitor(poll, nullptr);
        return tuple_of(tsloss::h0_from_distances(
            static_cast<Dtype>(dtype), BatchShape{batch, n, 0, in_i64(lengths)}, in(distances),
            symmetry_tolerance, out(deaths), out_i64(edges), threads));
      },
      release(), py::arg("dtype"), py::arg("distances"), py::arg("lengths"),
      py::arg("symmetry_tolerance"), py::arg("deaths"), py::arg("edges"), py::arg("batch"),
      py::arg("n"), py::arg("threads"));

  m.def(
      "scale_free_loss",
      [](int dtype, Address deaths, Address lengths, double connectivity, double redundancy,
         double rho, Address loss, Address grad, int64_t batch, int64_t n) {
        return tsloss::scale_free_loss(static_cast<Dtype>(dtype),
                                       BatchShape{batch, n, 0, in_i64(lengths)}, in(deaths),
                                       connectivity, redundancy, rho, out(loss), out(grad));
      },
      py::arg("dtype"), py::arg("deaths"), py::arg("lengths"), py::arg("connectivity"),
      py::arg("redundancy"), py::arg("rho"), py::arg("loss"), py::arg("grad"), py::arg("batch"),
      py::arg("n"));

  m.def(
      "single_linkage",
      [](Address edges, Address merges, int64_t batch, int64_t n) {
        tsloss::single_linkage(batch, n, in_i64(edges), out_i64(merges));
      },
      release(), py::arg("edges"), py::arg("merges"), py::arg("batch"), py::arg("n"));

  m.def(
      "pairwise_keys",
      [](int dtype, int metric, Address points, Address keys, int64_t batch, int64_t n, int64_t dim,
         int threads) {
        tsloss::pairwise_keys(static_cast<Dtype>(dtype), static_cast<Metric>(metric),
                              BatchShape{batch, n, dim, nullptr}, in(points), out(keys), threads);
      },
      release(), py::arg("dtype"), py::arg("metric"), py::arg("points"), py::arg("keys"),
      py::arg("batch"), py::arg("n"), py::arg("dim"), py::arg("threads"));

  m.def(
      "filter_keeps",
      [](int dtype, Address points, double factor, Address kept, int64_t n, int64_t dim) {
        tsloss::filter_keeps(static_cast<Dtype>(dtype), BatchShape{1, n, dim, nullptr}, in(points),
                             factor, static_cast<uint8_t*>(out(kept)));
      },
      release(), py::arg("dtype"), py::arg("points"), py::arg("factor"), py::arg("kept"),
      py::arg("n"), py::arg("dim"));

  using tsloss::ShardFilter;
  py::class_<ShardFilter>(m, "ShardFilter")
      .def(py::init([](int dtype, int metric, int64_t dim, double largest, bool lattice,
                       bool robust, int threads) {
             return tsloss::make_shard_filter(static_cast<Dtype>(dtype),
                                              {dim, tsloss::term_of(static_cast<Metric>(metric)),
                                               largest, lattice, robust, threads});
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
            tsloss::Monitor monitor(poll, nullptr);
            filter.near(a, b);
            return filter.result().size();
          },
          release(), py::arg("a"), py::arg("b"))
      .def(
          "between",
          [](ShardFilter& filter, int64_t a, int64_t b) {
            tsloss::Monitor monitor(poll, nullptr);
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
        const tsloss::Shard shard =
            tsloss::load_shard(static_cast<Dtype>(dtype), static_cast<Metric>(metric), in(points),
                               n, dim, out(rows), threads);
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
        return tsloss::spanning_forest(n, count, out_f64(keys), out_i64(edges));
      },
      release(), py::arg("n"), py::arg("count"), py::arg("keys"), py::arg("edges"));

  m.def(
      "exact_keys",
      [](int dtype, int metric, bool robust, Address rows, int64_t stride, int64_t count, Address a,
         Address b, Address keys) {
        tsloss::exact_keys(static_cast<Dtype>(dtype), static_cast<Metric>(metric), robust, in(rows),
                           stride, count, in_i64(a), in_i64(b), out_f64(keys));
      },
      release(), py::arg("dtype"), py::arg("metric"), py::arg("robust"), py::arg("rows"),
      py::arg("stride"), py::arg("count"), py::arg("a"), py::arg("b"), py::arg("keys"));

  m.def(
      "merge_order",
      [](int64_t n, Address edges, Address order, Address rank) {
        tsloss::forest_order(n, in_i64(edges), static_cast<int32_t*>(out(order)),
                             static_cast<int32_t*>(out(rank)));
      },
      release(), py::arg("n"), py::arg("edges"), py::arg("order"), py::arg("rank"));

  m.def(
      "keys_in_range",
      [](int dtype, int metric, int64_t dim, int64_t count, Address keys) {
        return tsloss::keys_in_range(static_cast<Dtype>(dtype), static_cast<Metric>(metric), dim,
                                     count, out_f64(keys));
      },
      py::arg("dtype"), py::arg("metric"), py::arg("dim"), py::arg("count"), py::arg("keys"));

  m.def(
      "finish_tree",
      [](int dtype, int metric, bool robust, int64_t count, Address keys, Address edges,
         Address deaths, Address sorted_edges) {
        return tuple_of(tsloss::finish_tree(static_cast<Dtype>(dtype), static_cast<Metric>(metric),
                                            robust, count, out_f64(keys), in_i64(edges),
                                            out(deaths), out_i64(sorted_edges)));
      },
      release(), py::arg("dtype"), py::arg("metric"), py::arg("robust"), py::arg("count"),
      py::arg("keys"), py::arg("edges"), py::arg("deaths"), py::arg("sorted_edges"));

  m.def(
      "set_overrides",
      [](int path, int64_t sample_one_in, int64_t wave_one_in, int coded, uint64_t seed,
         int64_t poll_milliseconds) {
        tsloss::overrides() = {static_cast<tsloss::Path>(path),
                               sample_one_in,
                               wave_one_in,
                               coded,
                               seed,
                               poll_milliseconds};
      },
      py::arg("path") = 0, py::arg("sample_one_in") = 0, py::arg("wave_one_in") = 0,
      py::arg("coded") = -1, py::arg("seed") = 0, py::arg("poll_milliseconds") = 100);
  m.def("isa", &tsloss::isa);
  m.def("set_isa", [](const std::string& name) { tsloss::set_isa(name.c_str()); }, py::arg("name"));
  m.def("supported_isas", &tsloss::supported_isas);
#ifdef TSLOSS_WITH_CUDA
  namespace cuda = tsloss::cuda;
  m.def(
      "cuda_workspace",
      [](int pass, int number, int metric, int64_t batch, int64_t n, int64_t dim, int device) {
        return cuda::workspace_bytes(static_cast<cuda::Pass>(pass),
                                     static_cast<cuda::Number>(number), static_cast<Metric>(metric),
                                     BatchShape{batch, n, dim, nullptr}, device);
      },
      py::arg("pass_"), py::arg("number"), py::arg("metric"), py::arg("batch"), py::arg("n"),
      py::arg("dim"), py::arg("device"));
  m.def(
      "cuda_h0_forward",
      [](int number, int metric, Address points, Address lengths, Address deaths, Address edges,
         Address findings, Address workspace, int64_t batch, int64_t n, int64_t dim, int device,
         Address stream) {
        cuda::h0_forward({device, out(stream)}, static_cast<cuda::Number>(number),
                         static_cast<Metric>(metric), BatchShape{batch, n, dim, in_i64(lengths)},
                         in(points), out(deaths), out_i64(edges), out_i64(findings),
                         out(workspace));
      },
      release(), py::arg("number"), py::arg("metric"), py::arg("points"), py::arg("lengths"),
      py::arg("deaths"), py::arg("edges"), py::arg("findings"), py::arg("workspace"),
      py::arg("batch"), py::arg("n"), py::arg("dim"), py::arg("device"), py::arg("stream"));
  m.def(
      "cuda_h0_backward",
      [](int number, int metric, Address grad_deaths, Address points, Address deaths, Address edges,
         Address grad_points, Address workspace, int64_t batch, int64_t n, int64_t dim, int device,
         Address stream) {
        cuda::h0_backward({device, out(stream)}, static_cast<cuda::Number>(number),
                          static_cast<Metric>(metric), BatchShape{batch, n, dim, nullptr},
                          in(grad_deaths), in(points), in(deaths), in_i64(edges), out(grad_points),
                          out(workspace));
      },
      release(), py::arg("number"), py::arg("metric"), py::arg("grad_deaths"), py::arg("points"),
      py::arg("deaths"), py::arg("edges"), py::arg("grad_points"), py::arg("workspace"),
      py::arg("batch"), py::arg("n"), py::arg("dim"), py::arg("device"), py::arg("stream"));
  m.def(
      "cuda_h0_from_distances",
      [](int number, Address distances, Address lengths, double symmetry_tolerance, Address deaths,
         Address edges, Address findings, Address workspace, int64_t batch, int64_t n, int device,
         Address stream) {
        cuda::h0_from_distances({device, out(stream)}, static_cast<cuda::Number>(number),
                                BatchShape{batch, n, 0, in_i64(lengths)}, in(distances),
                                symmetry_tolerance, out(deaths), out_i64(edges), out_i64(findings),
                                out(workspace));
      },
      release(), py::arg("number"), py::arg("distances"), py::arg("lengths"),
      py::arg("symmetry_tolerance"), py::arg("deaths"), py::arg("edges"), py::arg("findings"),
      py::arg("workspace"), py::arg("batch"), py::arg("n"), py::arg("device"), py::arg("stream"));
  m.attr("has_cuda") = true;
  m.attr("cuda_architectures") = TSLOSS_CUDA_ARCHITECTURES;
  m.attr("cuda_toolkit") = TSLOSS_CUDA_TOOLKIT;
#else
  m.attr("has_cuda") = false;
  m.attr("cuda_architectures") = "";
  m.attr("cuda_toolkit") = "";
#endif
  m.attr("version") = TSLOSS_VERSION;
  m.attr("compiler") = TSLOSS_COMPILER;
}
