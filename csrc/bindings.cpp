// Pointers and sizes in, GIL released, nothing else. Checks of shape and type belong to the caller
// (tsloss_fast/_ops.py), which alone knows tensors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>

#include "cpu/monitor.h"
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

std::tuple<int, int64_t, int64_t, int64_t> tuple_of(const Finding& f) {
  return {static_cast<int>(f.problem), f.cloud, f.i, f.j};
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
         int64_t batch, int64_t n, int64_t dim, int threads) {
        tsloss::Monitor monitor(poll, nullptr);
        return tuple_of(tsloss::h0_forward(static_cast<Dtype>(dtype), static_cast<Metric>(metric),
                                           BatchShape{batch, n, dim, in_i64(lengths)}, in(points),
                                           out(deaths), out_i64(edges), threads));
      },
      release(), py::arg("dtype"), py::arg("metric"), py::arg("points"), py::arg("lengths"),
      py::arg("deaths"), py::arg("edges"), py::arg("batch"), py::arg("n"), py::arg("dim"),
      py::arg("threads"));

  m.def(
      "h0_backward",
      [](int dtype, int metric, Address grad_deaths, Address points, Address deaths, Address edges,
         Address grad_points, int64_t batch, int64_t n, int64_t dim, int threads) {
        tsloss::Monitor monitor(poll, nullptr);
        tsloss::h0_backward(static_cast<Dtype>(dtype), static_cast<Metric>(metric),
                            BatchShape{batch, n, dim, nullptr}, in(grad_deaths), in(points),
                            in(deaths), in_i64(edges), out(grad_points), threads);
      },
      release(), py::arg("dtype"), py::arg("metric"), py::arg("grad_deaths"), py::arg("points"),
      py::arg("deaths"), py::arg("edges"), py::arg("grad_points"), py::arg("batch"), py::arg("n"),
      py::arg("dim"), py::arg("threads"));

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
#else
  m.attr("has_cuda") = false;
  m.attr("cuda_architectures") = "";
#endif
  m.attr("compiler") = TSLOSS_COMPILER;
}
