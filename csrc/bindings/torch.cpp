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
  // The numbers of the metrics, and the type of a barcode.
  PyObject *metrics = nullptr, *h0_persistence = nullptr;
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

int64_t number(py::handle object, PyObject* method) {
  const py::object result = checked(PyObject_CallMethodNoArgs(object.ptr(), method));
  return PyLong_AsLongLong(result.ptr());
}

// Whether the storage of a contiguous tensor is as long as the tensor.
bool has_memory(py::handle tensor, const Array& x) {
  const int64_t end = number(tensor, names().storage_offset) + x.leading(0);
  const py::object storage =
      checked(PyObject_CallMethodNoArgs(tensor.ptr(), names().untyped_storage));
  return number(storage, names().nbytes) >= end * (x.type().bits / 8);
}

// An uninitialised tensor of the type of another, with the given sizes and more after them.
py::object new_empty(PyObject* like, const int64_t* sizes, int axes,
                     std::initializer_list<int64_t> more) {
  constexpr int kMost = 64;  // dimensions of a tensor of torch
  py::object arguments[kMost];
  PyObject* pointers[kMost + 1] = {like};
  size_t count = 0;
  const auto add = [&](int64_t size) {
    arguments[count] = py::int_(size);
    pointers[count + 1] = arguments[count].ptr();
    ++count;
  };
  for (int k = 0; k < axes; ++k) add(sizes[k]);
  for (int64_t size : more) add(size);
  return checked(PyObject_VectorcallMethod(names().new_empty, pointers,
                                           (count + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

PyObject* scalar_of(Type type) { return type == kDouble ? torch.double_ : torch.single; }

// Returns the result of h0_persistence if the points are plain and nothing is wrong, or True if a
// gradient is asked for; else None, and the general way gives the result or the error.
py::object everyday_h0(py::handle points, py::handle metric) {
  if (!is_plain(points)) return py::none();
  PyObject* code = PyDict_GetItemWithError(torch.metrics, metric.ptr());
  if (!code) {
    PyErr_Clear();
    return py::none();
  }
  const Array x(points, "points");
  if (x.axes() < 2) return py::none();
  const py::object differentiable = checked(PyObject_GetAttr(points.ptr(), names().requires_grad));
  if (differentiable.ptr() == Py_True && !gives_nothing(torch.is_grad_enabled))
    return py::bool_(true);
  if (!x.contiguous() || !has_memory(points, x)) return py::none();
  const py::object threads = checked(PyObject_CallNoArgs(torch.get_num_threads));
  const Batch batch(x, py::none(), py::none());
  Barcode found = new_barcode(batch, x);
  if (forward(static_cast<int>(PyLong_AsLong(code)), x, batch, found,
              static_cast<int>(PyLong_AsLong(threads.ptr())))
          .problem != Problem::kNone) {
    return py::none();
  }
  auto* type = (PyTypeObject*)torch.h0_persistence;  // a named tuple
  const py::object result = checked(type->tp_alloc(type, 2));
  PyTuple_SET_ITEM(result.ptr(), 0, found.deaths.release().ptr());
  PyTuple_SET_ITEM(result.ptr(), 1, found.edges.release().ptr());
  return result;
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

py::object new_scalar(Type type) { return empty_like(scalar_of(type)); }

Barcode new_barcode(const Batch& batch, const Array& values) {
  const bool ragged = batch.shape.offsets != nullptr;
  const int axes = ragged ? 0 : values.axes() - 2;
  const int64_t bars = ragged ? batch.bar_offsets.back() : batch.shape.bars();
  return {new_empty(scalar_of(values.type()), values.sizes(), axes, {bars}),
          new_empty(torch.integers, values.sizes(), axes, {bars, 2})};
}

Finding forward(int metric, const Array& points, const Batch& batch, const Barcode& to,
                int threads) {
  const Dtype dtype = points.real();
  const void* from = points.at(points.type(), {points.leading(1), points.size(0)});
  void* deaths = batch.bars(to.deaths, "deaths", points.type());
  int64_t* edges = batch.edges(to.edges);
  return watched([&] {
    return h0_forward(dtype, static_cast<Metric>(metric), batch.shape, from, deaths, edges,
                      threads);
  });
}

void bind_torch(py::module_& m) {
  m.def("use_torch", use_torch);
  m.def("is_plain", is_plain, py::arg("x"));
  m.def("everyday_h0", everyday_h0, py::arg("points"), py::arg("metric"));
}

}  // namespace bindings
}  // namespace tsloss
