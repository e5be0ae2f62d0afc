// Declarations that the files of the module _core share: tensors as arrays of numbers, and the
// watch over a long call.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "cpu/runtime/buffer.h"
#include "cpu/runtime/monitor.h"
#include "tsloss.h"

namespace tsloss {
namespace bindings {

namespace py = pybind11;

using release = py::call_guard<py::gil_scoped_release>;

// A type of numbers, as DLPack has it: what kind of number, and how many bits.
struct Type {
  uint8_t kind, bits;
  bool operator==(const Type& other) const { return kind == other.kind && bits == other.bits; }
};
constexpr Type kInt32{0, 32}, kInt64{0, 64}, kUint8{1, 8};
constexpr Type kHalf{2, 16}, kSingle{2, 32}, kDouble{2, 64}, kBrain{4, 16};

struct Device {
  int32_t type, index;
  bool operator==(const Device& other) const { return type == other.type && index == other.index; }
};
constexpr Device kCpu{1, 0};

// A tensor as DLPack describes it.
struct DLTensor {
  void* data;
  Device device;
  int32_t axes;
  Type type;
  uint16_t lanes;
  const int64_t* sizes;
  const int64_t* strides;  // null: one after the other
  uint64_t byte_offset;
};

// What a DLPack capsule describes. Throws a TypeError that begins with the name for anything else.
DLTensor of_capsule(py::handle capsule, const char* name);

// Describes a tensor or its DLPack capsule. Returns a capsule that keeps the description alive, if
// it takes one. Throws a TypeError that begins with the name for anything else.
py::object describe(py::handle tensor, const char* name, DLTensor& found);

// A tensor that Python passes, itself or as its DLPack capsule; the caller keeps it for the time of
// the call.
// Every address that the core gets comes from `at`, which checks type, shape, device and layout: a
// wrong one would not raise an error in C++ but corrupt memory.
class Array {
 public:
  // Without a device, any will do.
  Array(py::handle tensor, const char* name, std::optional<Device> device = kCpu);

  Type type() const { return type_; }
  Device device() const { return device_; }
  int axes() const { return axes_; }
  const int64_t* sizes() const { return sizes_; }
  bool contiguous() const { return contiguous_; }
  // float32 or float64.
  Dtype real() const;
  // An axis counted from the last, 0. TypeError if there is none.
  int64_t size(int axis) const;
  // How many arrays of `axes` axes there are: the product of the sizes before.
  int64_t leading(int axes) const;

  // The address, if there are so many numbers of the type in such a shape, one after the other. The
  // first size is the product of all leading sizes of the tensor.
  void* at(Type type, std::initializer_list<int64_t> shape) const;
  template <class T>
  T* at(std::initializer_list<int64_t> shape) const;

  // This array, contiguous: its numbers are copied to `room` if they do not stand one after the
  // other. The gradient of a sum, for example, is one number repeated.
  Array packed(Buffer<char>& room) const;

  // Throws a TypeError with the expected and the given tensor.
  [[noreturn]] void refuse(const std::string& expected) const;

 private:
  const char* name_;
  py::object capsule_;
  void* data_;
  Device device_;
  Type type_;
  int axes_;
  const int64_t* sizes_;
  const int64_t* strides_;
  bool contiguous_;
};

template <>
inline int64_t* Array::at<int64_t>(std::initializer_list<int64_t> shape) const {
  return static_cast<int64_t*>(at(kInt64, shape));
}
template <>
inline int32_t* Array::at<int32_t>(std::initializer_list<int64_t> shape) const {
  return static_cast<int32_t*>(at(kInt32, shape));
}
template <>
inline double* Array::at<double>(std::initializer_list<int64_t> shape) const {
  return static_cast<double*>(at(kDouble, shape));
}

// Clouds of points (..., N, D), with lengths (...) or None. Or with offsets (B+1,) of clouds in a
// row, points (T, D).
struct Batch {
  BatchShape shape;
  std::vector<int64_t> bar_offsets;

  Batch(const Array& points, py::handle lengths, py::handle offsets);
  // The addresses of numbers (..., N-1), or (M,) with offsets, and of edges (..., N-1, 2).
  void* bars(const Array& array, Type type) const;
  void* bars(py::handle tensor, const char* name, Type type) const {
    return bars(Array(tensor, name, device_), type);
  }
  int64_t* edges(py::handle tensor) const;

 private:
  Device device_;
};

// None, or what is wrong with which cloud.
py::object finding_or_none(const Finding& f);

// Called every tenth of a second in a long call: Ctrl-C stops it, with KeyboardInterrupt.
bool poll(void*, double fraction);

// A call of the core without the GIL, which Ctrl-C stops.
template <class Call>
auto watched(const Call& call) {
  py::gil_scoped_release release;
  Monitor monitor(poll, nullptr);
  return call();
}

// Uninitialised tensors: like another, and with one number of a type on the CPU. Throw what torch
// raises.
py::object empty_like(py::handle tensor);
py::object new_scalar(Type type);

// Tensors for the bars of a batch of values, uninitialised.
struct Barcode {
  py::object deaths;
  py::object edges;
};
Barcode new_barcode(const Batch& batch, const Array& values);

// Writes the barcode of points.
Finding forward(int metric, const Array& points, const Batch& batch, const Barcode& to,
                int threads);

void bind_torch(py::module_& m);
void bind_loss(py::module_& m);
void bind_shards(py::module_& m);
void bind_cuda(py::module_& m);

}  // namespace bindings
}  // namespace tsloss
