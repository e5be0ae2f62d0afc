// Pointers and sizes in, GIL released, nothing else. Checks of shape and type belong to the caller
// (tsloss_fast/_ops_cpu.py), which alone knows tensors.
#include "bindings/bindings.h"

#include <exception>
#include <string>

#include "cpu/monitor.h"
#include "cpu/tuning.h"

namespace tsloss {
namespace bindings {
namespace {

// The progress callback of the calls that this thread makes, or null.
thread_local PyObject* progress = nullptr;

}  // namespace

bool poll(void*, double fraction) {
  py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) return false;
  if (!progress) return true;
  PyObject* result = PyObject_CallFunction(progress, "d", fraction);
  Py_XDECREF(result);
  return result != nullptr;
}

}  // namespace bindings
}  // namespace tsloss

using namespace tsloss::bindings;
using tsloss::BatchShape;
using tsloss::Dtype;
using tsloss::Metric;

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "Native kernels of tsloss_fast. Private: use the functions of tsloss_fast.";
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

  bind_shards(m);

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

  bind_cuda(m);

  m.attr("version") = TSLOSS_VERSION;
  m.attr("compiler") = TSLOSS_COMPILER;
}
