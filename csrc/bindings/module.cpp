// Checked arrays in, GIL released, nothing else.
#include "bindings/bindings.h"

#include <exception>
#include <string>

#include "cpu/runtime/monitor.h"
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
      [](int metric, py::handle points, py::handle lengths, py::handle offsets, int threads) {
        const Array x(points, "points");
        x.real();
        const Batch batch(x, lengths, offsets);
        tsloss::check_lengths(batch.shape);
        const Barcode found = new_barcode(batch, x);
        const tsloss::Finding finding = forward(metric, x, batch, found, threads);
        return py::make_tuple(found.deaths, found.edges, finding_or_none(finding));
      },
      py::arg("metric"), py::arg("points"), py::arg("lengths"), py::arg("offsets"),
      py::arg("threads"));

  m.def(
      "h0_backward",
      [](int metric, py::handle grad_deaths, py::handle points, py::handle offsets,
         py::handle deaths, py::handle edges, int threads) {
        const Array x(points, "points");
        const Dtype dtype = x.real();
        const Batch batch(x, py::none(), offsets);
        const int64_t rows = x.leading(1), dim = x.size(0);
        const void* from = x.at(x.type(), {rows, dim});
        tsloss::Buffer<char> room;
        const Array grads = Array(grad_deaths, "grad_deaths").packed(room);
        const void* grad = batch.bars(grads, x.type());
        const void* of_deaths = batch.bars(deaths, "deaths", x.type());
        const int64_t* of_edges = batch.edges(edges);
        py::object grad_points = empty_like(points);
        void* to = Array(grad_points, "grad_points").at(x.type(), {rows, dim});
        watched([&] {
          tsloss::h0_backward(dtype, static_cast<Metric>(metric), batch.shape, grad, from,
                              of_deaths, of_edges, to, threads);
        });
        return grad_points;
      },
      py::arg("metric"), py::arg("grad_deaths"), py::arg("points"), py::arg("offsets"),
      py::arg("deaths"), py::arg("edges"), py::arg("threads"));

  m.def(
      "h0_from_distances",
      [](py::handle distances, py::handle lengths, double symmetry_tolerance, int threads) {
        const Array d(distances, "distances");
        const Dtype dtype = d.real();
        const Batch batch(d, lengths, py::none());
        tsloss::check_lengths(batch.shape);
        const int64_t n = batch.shape.points;
        const void* from = d.at(d.type(), {batch.shape.batch, n, n});
        const Barcode found = new_barcode(batch, d);
        void* deaths = batch.bars(found.deaths, "deaths", d.type());
        int64_t* edges = batch.edges(found.edges);
        const tsloss::Finding finding = watched([&] {
          return tsloss::h0_from_distances(dtype, batch.shape, from, symmetry_tolerance, deaths,
                                           edges, threads);
        });
        return py::make_tuple(found.deaths, found.edges, finding_or_none(finding));
      },
      py::arg("distances"), py::arg("lengths"), py::arg("symmetry_tolerance"), py::arg("threads"));

  m.def(
      "check_lengths",
      [](py::handle lengths, int64_t points) {
        const Array array(lengths, "lengths");
        const int64_t batch = array.leading(0);
        tsloss::check_lengths(BatchShape{batch, points, 0, array.at<int64_t>({batch})});
      },
      py::arg("lengths"), py::arg("points"));

  m.def(
      "check_offsets",
      [](py::handle offsets, int64_t rows, int64_t bars) {
        const Array array(offsets, "offsets");
        const int64_t count = array.leading(0);
        const int64_t* starts = array.at<int64_t>({count});
        const int64_t expected = tsloss::bar_offsets_of(count - 1, starts, rows).back();
        if (bars != expected) {
          throw py::value_error("bars: expected " + std::to_string(expected) +
                                " (that of the offsets), got " + std::to_string(bars));
        }
      },
      py::arg("offsets"), py::arg("rows"), py::arg("bars"));

  m.def(
      "single_linkage",
      [](py::handle edges, py::handle merges) {
        const Array tree(edges, "edges");
        const int64_t batch = tree.leading(2), bars = tree.size(1);
        const int64_t* from = tree.at<int64_t>({batch, bars, 2});
        int64_t* to = Array(merges, "merges").at<int64_t>({batch, bars, 3});
        watched([&] { tsloss::single_linkage(batch, bars + 1, from, to); });
      },
      py::arg("edges"), py::arg("merges"));

  m.def(
      "pairwise_keys",
      [](int metric, py::handle points, py::handle keys, int threads) {
        const Array x(points, "points");
        const Dtype dtype = x.real();
        const BatchShape shape = Batch(x, py::none(), py::none()).shape;
        const void* from = x.at(x.type(), {shape.batch, shape.points, shape.dim});
        void* to = Array(keys, "keys").at(x.type(), {shape.batch, shape.points, shape.points});
        watched([&] {
          tsloss::pairwise_keys(dtype, static_cast<Metric>(metric), shape, from, to, threads);
        });
      },
      py::arg("metric"), py::arg("points"), py::arg("keys"), py::arg("threads"));

  m.def(
      "filter_keeps",
      [](py::handle points, double factor, py::handle kept) {
        const Array x(points, "points");
        const Dtype dtype = x.real();
        const int64_t n = x.size(1), dim = x.size(0);
        const void* from = x.at(x.type(), {1, n, dim});
        auto* to = static_cast<uint8_t*>(Array(kept, "kept").at(kUint8, {n, n}));
        watched([&] { tsloss::filter_keeps(dtype, BatchShape{1, n, dim}, from, factor, to); });
      },
      py::arg("points"), py::arg("factor"), py::arg("kept"));

  bind_torch(m);
  bind_loss(m);
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
