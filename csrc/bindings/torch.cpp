// The binding uses torch without a header of it: this file describes tensors, makes tensors, and
// asks which modes of torch are active. Source: the DLPack specification, the unversioned DLTensor
// and DLPackExchangeAPI, version 1.
#include "bindings/bindings.h"

#include <initializer_list>
#include <string>
#include <utility>

namespace tsloss {
namespace bindings {
namespace {

// The table of functions that newer versions of torch have for other libraries.
struct ExchangeTable {
  uint32_t major, minor;
  void* previous;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  int (*from_object)(void* object, DLTensor* tensor);  // may be null
};

// What Python says about torch and the package. It lives as long as the process.
struct Torch {
  const ExchangeTable* table = nullptr;
  uint64_t dense_keys[2] = {};  // dispatch keys of tensors with memory of their own
  // Types of ordinary tensors, types of numbers, tensors on the CPU, and a module.
  PyObject *tensor = nullptr, *parameter = nullptr, *float32 = nullptr, *float64 = nullptr;
  PyObject *integers = nullptr, *single = nullptr, *double_ = nullptr, *forward_ad = nullptr;
  // Functions.
  PyObject *empty_like = nullptr, *to_capsule = nullptr, *dispatch_keys = nullptr,
           *transforms_active = nullptr;
  PyObject *dispatch_modes = nullptr, *function_modes = nullptr, *jit_tracer = nullptr;
  PyObject *is_grad_enabled = nullptr, *get_num_threads = nullptr;
  // The numbers of the metrics, the type of a barcode, and a function of points and metric that
  // gives the deaths with their gradient, and the edges.
  PyObject *metrics = nullptr, *h0_persistence = nullptr, *differentiable_h0 = nullptr;
} torch;

// Names that are looked up in every call.
PyObject* intern(const char* name) { return PyUnicode_InternFromString(name); }
struct Names {
  PyObject* dtype = intern("dtype");
  PyObject* requires_grad = intern("requires_grad");
  PyObject* raw_repr = intern("raw_repr");
  PyObject* current_level = intern("_current_level");
  PyObject* new_empty = intern("new_empty");
  PyObject* untyped_storage = intern("untyped_storage");
  PyObject* nbytes = intern("nbytes");
  PyObject* storage_offset = intern("storage_offset");
};
const Names& names() {
  static const Names all;
  return all;
}

void use_torch(py::kwargs given) {
  const std::pair<const char*, PyObject**> fields[] = {
      {"tensor", &torch.tensor},
      {"parameter", &torch.parameter},
      {"float32", &torch.float32},
      {"float64", &torch.float64},
      {"integers", &torch.integers},
      {"single", &torch.single},
      {"double", &torch.double_},
      {"forward_ad", &torch.forward_ad},
      {"empty_like", &torch.empty_like},
      {"to_capsule", &torch.to_capsule},
      {"dispatch_keys", &torch.dispatch_keys},
      {"transforms_active", &torch.transforms_active},
      {"dispatch_modes", &torch.dispatch_modes},
      {"function_modes", &torch.function_modes},
      {"jit_tracer", &torch.jit_tracer},
      {"is_grad_enabled", &torch.is_grad_enabled},
      {"get_num_threads", &torch.get_num_threads},
      {"metrics", &torch.metrics},
      {"h0_persistence", &torch.h0_persistence},
      {"differentiable_h0", &torch.differentiable_h0},
  };
  for (const auto& [name, field] : fields) {
    if (given.contains(name)) *field = given[name].cast<py::object>().release().ptr();
  }
  if (given.contains("dense_keys")) {
    const auto keys = given["dense_keys"].cast<std::pair<uint64_t, uint64_t>>();
    torch.dense_keys[0] = keys.first;
    torch.dense_keys[1] = keys.second;
  }
  if (given.contains("table")) {
    const bool none = given["table"].is_none();
    const auto* table = static_cast<const ExchangeTable*>(
        none ? nullptr : PyCapsule_GetPointer(given["table"].ptr(), "dlpack_exchange_api"));
    if (!none && !table) throw py::error_already_set();
    torch.table = table && table->major == 1 && table->from_object ? table : nullptr;
  }
}

py::object checked(PyObject* result) {
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

// Whether a function without arguments gives None, False or 0.
bool gives_nothing(PyObject* function) {
  const py::object result = checked(PyObject_CallNoArgs(function));
  return PyObject_Not(result.ptr()) == 1;
}

// Whether a tensor is an ordinary one on the CPU of a type that the kernels take, while no mode,
// transform or tracer is active that has to see operators. These are asked first: a mode would see
// the questions about the tensor.
bool is_plain(py::handle x) {
  const auto* type = (const PyObject*)Py_TYPE(x.ptr());
  if (type != torch.tensor && type != torch.parameter) return false;
  if (!gives_nothing(torch.transforms_active) || !gives_nothing(torch.dispatch_modes) ||
      !gives_nothing(torch.function_modes) || !gives_nothing(torch.jit_tracer)) {
    return false;
  }
  const py::object level = checked(PyObject_GetAttr(torch.forward_ad, names().current_level));
  if (PyLong_AsLong(level.ptr()) >= 0) return false;
  const py::object dtype = checked(PyObject_GetAttr(x.ptr(), names().dtype));
  if (dtype.ptr() != torch.float32 && dtype.ptr() != torch.float64) return false;
  const py::object keys = checked(PyObject_CallOneArg(torch.dispatch_keys, x.ptr()));
  const py::object bits = checked(PyObject_CallMethodNoArgs(keys.ptr(), names().raw_repr));
  const uint64_t value = PyLong_AsUnsignedLongLong(bits.ptr());
  return value == torch.dense_keys[0] || value == torch.dense_keys[1];
}

// Calls a method without arguments. The result is null, with the error set, if the method raises.
py::object call(py::handle object, PyObject* method) {
  return py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object.ptr(), method));
}

int64_t number(py::handle object, PyObject* method) {
  const py::object result = call(object, method);
  return result ? PyLong_AsLongLong(result.ptr()) : -1;
}

// An uninitialised tensor of the type and device of another, with the leading sizes of `batch` but
// for its last two, and more sizes after them. Null, with the error set, if it cannot be had.
py::object new_empty(py::handle like, const DLTensor& batch, std::initializer_list<int64_t> sizes) {
  constexpr int kMost = 64;  // dimensions of a tensor of torch
  py::object arguments[kMost + 2];
  PyObject* pointers[kMost + 2];
  size_t count = 0;
  const auto add = [&](py::object argument) {
    pointers[count] = argument.ptr();
    arguments[count++] = std::move(argument);
  };
  add(py::reinterpret_borrow<py::object>(like));
  for (int k = 0; k + 2 < batch.axes; ++k) add(py::int_(batch.sizes[k]));
  for (int64_t size : sizes) add(py::int_(size));
  return py::reinterpret_steal<py::object>(PyObject_VectorcallMethod(
      names().new_empty, pointers, count | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

// A barcode, and the finding about its points.
struct Barcode {
  py::object deaths;  // null if the points are none that the function takes
  py::object edges;
  Finding finding;
};

// The barcode of points (..., N, D), if they are a contiguous tensor on the CPU whose memory is
// there, and memory for the result can be had.
Barcode barcode_of(py::handle points, int metric, int threads) {
  if (!torch.table) return {};
  DLTensor t;
  describe(points, "points", t);
  const Array x(points, "points");
  const bool single = x.type() == kSingle;
  if (!x.contiguous() || t.axes < 2 || t.axes > 60 || !(single || x.type() == kDouble)) {
    return {};
  }
  const int64_t rows = x.leading(1), dim = x.size(0), n = x.size(1), bars = n > 0 ? n - 1 : 0;
  const int64_t end = number(points, names().storage_offset) + rows * dim;
  const py::object storage = call(points, names().untyped_storage);
  if (!storage || number(storage, names().nbytes) < end * (single ? 4 : 8)) {
    PyErr_Clear();
    return {};
  }
  Barcode result;
  result.deaths = new_empty(points, t, {bars});
  if (result.deaths) result.edges = new_empty(torch.integers, t, {bars, 2});
  if (!result.edges) {
    PyErr_Clear();
    return {};
  }
  const BatchShape shape{x.leading(2), n, dim};
  const void* from = x.at(x.type(), {rows, dim});
  void* to_deaths = Array(result.deaths, "deaths").at(x.type(), {shape.batch, bars});
  int64_t* to_edges = Array(result.edges, "edges").at<int64_t>({shape.batch, bars, 2});
  result.finding = watched([&] {
    return h0_forward(x.real(), static_cast<Metric>(metric), shape, from, to_deaths, to_edges,
                      threads);
  });
  return result;
}

// Deaths, edges and finding; None for points that only the general way takes.
py::object plain_h0(py::handle points, int metric, int threads) {
  const Barcode found = barcode_of(points, metric, threads);
  if (!found.deaths) return py::none();
  return py::make_tuple(found.deaths, found.edges, finding_or_none(found.finding));
}

// A named tuple of deaths and edges.
py::object result_of(py::object deaths, py::object edges) {
  auto* type = (PyTypeObject*)torch.h0_persistence;
  py::object result = checked(type->tp_alloc(type, 2));
  PyTuple_SET_ITEM(result.ptr(), 0, deaths.release().ptr());
  PyTuple_SET_ITEM(result.ptr(), 1, edges.release().ptr());
  return result;
}

// Returns the result of h0_persistence if the points are plain and nothing is wrong; else None, and
// the general way gives the result or the error. Where a gradient is asked for, errors are raised
// here.
py::object everyday_h0(py::handle points, py::handle metric) {
  if (!is_plain(points)) return py::none();
  PyObject* code = PyDict_GetItemWithError(torch.metrics, metric.ptr());
  if (!code) {
    PyErr_Clear();
    return py::none();
  }
  const py::object differentiable = checked(PyObject_GetAttr(points.ptr(), names().requires_grad));
  if (differentiable.ptr() == Py_True && !gives_nothing(torch.is_grad_enabled)) {
    DLTensor t;
    const py::object capsule = describe(points, "points", t);
    if (t.axes < 2) return py::none();
    const py::object found = checked(
        PyObject_CallFunctionObjArgs(torch.differentiable_h0, points.ptr(), metric.ptr(), nullptr));
    const auto [deaths, edges] = found.cast<std::pair<py::object, py::object>>();
    return result_of(deaths, edges);
  }
  const py::object threads = checked(PyObject_CallNoArgs(torch.get_num_threads));
  Barcode found = barcode_of(points, static_cast<int>(PyLong_AsLong(code)),
                             static_cast<int>(PyLong_AsLong(threads.ptr())));
  if (!found.deaths || found.finding.problem != Problem::kNone) return py::none();
  return result_of(std::move(found.deaths), std::move(found.edges));
}

}  // namespace

py::object describe(py::handle tensor, const char* name, DLTensor& found) {
  py::object capsule = py::reinterpret_borrow<py::object>(tensor);
  if (torch.tensor && PyObject_TypeCheck(tensor.ptr(), (PyTypeObject*)torch.tensor)) {
    if (torch.table) {
      if (torch.table->from_object(tensor.ptr(), &found) != 0) throw py::error_already_set();
      return {};
    }
    capsule = py::reinterpret_borrow<py::object>(torch.to_capsule)(tensor);
  }
  found = of_capsule(capsule, name);
  return capsule;
}

py::object empty_like(py::handle tensor) {
  return checked(PyObject_CallOneArg(torch.empty_like, tensor.ptr()));
}

py::object new_scalar(Type type) {
  return empty_like(type == kDouble ? torch.double_ : torch.single);
}

void bind_torch(py::module_& m) {
  m.def("use_torch", use_torch);
  m.def("is_plain", is_plain, py::arg("x"));
  m.def("plain_h0", plain_h0, py::arg("points"), py::arg("metric"), py::arg("threads"));
  m.def("everyday_h0", everyday_h0, py::arg("points"), py::arg("metric"));
}

}  // namespace bindings
}  // namespace tsloss
