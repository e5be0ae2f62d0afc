// A tensor as an array: its numbers, once their type, shape and layout are checked.
#include <algorithm>
#include <cstring>
#include <string>

#include "bindings/bindings.h"

namespace tsloss {
namespace bindings {
namespace {

std::string name_of(Type type) {
  if (type == kBrain) return "bfloat16";
  const char* kinds[] = {"int", "uint", "float"};
  return (type.kind < 3 ? kinds[type.kind] : "another type of ") + std::to_string(type.bits);
}

std::string shape_of(const int64_t* sizes, size_t axes) {
  std::string text = "(";
  for (size_t k = 0; k < axes; ++k) text += (k ? ", " : "") + std::to_string(sizes[k]);
  return text + (axes == 1 ? ",)" : ")");
}

bool is_contiguous(const DLTensor& t) {
  if (!t.strides) return true;
  int64_t step = 1;
  bool dense = true;
  for (int k = t.axes - 1; k >= 0; --k) {
    if (t.sizes[k] == 0) return true;
    dense = dense && (t.sizes[k] == 1 || t.strides[k] == step);
    step *= t.sizes[k];
  }
  return dense;
}

}  // namespace

DLTensor of_capsule(py::handle capsule, const char* name) {
  if (!PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    throw py::type_error(std::string(name) + ": expected a tensor or its DLPack capsule, got " +
                         Py_TYPE(capsule.ptr())->tp_name);
  }
  return *static_cast<const DLTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
}

Array::Array(py::handle tensor, const char* name, std::optional<Device> device) : name_(name) {
  DLTensor t;
  capsule_ = describe(tensor, name, t);
  data_ = static_cast<char*>(t.data) + t.byte_offset;
  device_ = t.device;
  type_ = t.type;
  axes_ = t.axes;
  sizes_ = t.sizes;
  strides_ = t.strides;
  contiguous_ = is_contiguous(t);
  if (device && !(device_ == *device)) {
    throw py::type_error(std::string(name) + ": expected a tensor on the device of the call, got " +
                         "one on another device");
  }
}

void Array::refuse(const std::string& expected) const {
  throw py::type_error(std::string(name_) + ": expected " + expected + ", got " + name_of(type_) +
                       " of shape " + shape_of(sizes_, static_cast<size_t>(axes_)) +
                       (contiguous_ ? "" : ", not contiguous"));
}

Dtype Array::real() const {
  if (type_ == kSingle) return Dtype::kFloat32;
  if (type_ == kDouble) return Dtype::kFloat64;
  refuse("float32 or float64");
}

int64_t Array::size(int axis) const {
  if (axis >= axes_) refuse("at least " + std::to_string(axis + 1) + " dimensions");
  return sizes_[axes_ - 1 - axis];
}

int64_t Array::leading(int axes) const {
  if (axes > axes_) refuse("at least " + std::to_string(axes) + " dimensions");
  int64_t product = 1;
  for (int k = 0; k < axes_ - axes; ++k) product *= sizes_[k];
  return product;
}

void* Array::at(Type type, std::initializer_list<int64_t> shape) const {
  const int inner = static_cast<int>(shape.size()) - 1;
  const int64_t* const wanted = shape.begin();
  int64_t count = 1;
  for (int64_t n : shape) count *= n;
  bool fits = type_ == type && contiguous_ && axes_ >= inner;
  if (fits && count > 0) {
    fits = data_ && leading(inner) == wanted[0];
    for (int k = 0; k < inner; ++k) fits = fits && size(k) == wanted[inner - k];
  } else if (fits) {
    // An empty tensor is neither read nor written, so its sizes do not matter.
    int64_t found = 1;
    for (int k = 0; k < axes_; ++k) found *= sizes_[k];
    fits = found == 0;
  }
  if (!fits) {
    refuse("a contiguous tensor of " + name_of(type) + " and shape " +
           shape_of(wanted, shape.size()) + ", with memory of its own");
  }
  return data_;
}

Array Array::packed(Buffer<char>& room) const {
  Array result = *this;
  if (contiguous_ || !data_) return result;
  const int64_t width = type_.bits / 8, count = leading(0);
  char* to = room.reserve(count, width);
  result.data_ = to;
  result.contiguous_ = true;
  std::vector<int64_t> index(static_cast<size_t>(axes_));
  for (int64_t written = 0, from = 0; written < count; ++written) {
    std::memcpy(to + written * width, static_cast<char*>(data_) + from * width, width);
    for (int k = axes_ - 1; k >= 0; --k) {
      from += strides_[k];
      if (++index[k] < sizes_[k]) break;
      from -= sizes_[k] * strides_[k];
      index[k] = 0;
    }
  }
  return result;
}

Batch::Batch(const Array& points, py::handle lengths, py::handle offsets)
    : device_(points.device()) {
  shape.dim = points.size(0);
  if (offsets.is_none()) {
    shape.points = points.size(1);
    shape.batch = points.leading(2);
    if (!lengths.is_none()) {
      shape.lengths = Array(lengths, "lengths", device_).at<int64_t>({shape.batch});
    }
    return;
  }
  const Array starts(offsets, "offsets");
  const int64_t count = starts.leading(0);
  shape.batch = count - 1;
  shape.offsets = starts.at<int64_t>({count});
  bar_offsets = bar_offsets_of(shape.batch, shape.offsets, points.leading(1));
  shape.bar_offsets = bar_offsets.data();
  for (int64_t c = 0; c < shape.batch; ++c) {
    shape.points = std::max(shape.points, shape.offsets[c + 1] - shape.offsets[c]);
  }
}

void* Batch::bars(const Array& array, Type type) const {
  if (shape.offsets) return array.at(type, {bar_offsets.back()});
  return array.at(type, {shape.batch, shape.bars()});
}

int64_t* Batch::edges(py::handle tensor) const {
  const Array array(tensor, "edges", device_);
  if (shape.offsets) return array.at<int64_t>({bar_offsets.back(), 2});
  return array.at<int64_t>({shape.batch, shape.bars(), 2});
}

py::object finding_or_none(const Finding& f) {
  if (f.problem == Problem::kNone) return py::none();
  return py::make_tuple(static_cast<int>(f.problem), f.cloud, f.i, f.j);
}

}  // namespace bindings
}  // namespace tsloss
