// What the files of the module _core share: addresses as pointers, and how a long call is watched.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <tuple>

#include "tsloss.h"

namespace tsloss {
namespace bindings {

namespace py = pybind11;

using Address = std::uintptr_t;
using release = py::call_guard<py::gil_scoped_release>;

inline const void* in(Address a) { return reinterpret_cast<const void*>(a); }
inline void* out(Address a) { return reinterpret_cast<void*>(a); }
inline const int64_t* in_i64(Address a) { return reinterpret_cast<const int64_t*>(a); }
inline int64_t* out_i64(Address a) { return reinterpret_cast<int64_t*>(a); }
inline double* out_f64(Address a) { return reinterpret_cast<double*>(a); }

inline std::tuple<int, int64_t, int64_t, int64_t> tuple_of(const Finding& f) {
  return {static_cast<int>(f.problem), f.cloud, f.i, f.j};
}

// Called every tenth of a second in a long call: Ctrl-C stops it, with KeyboardInterrupt.
bool poll(void*, double fraction);

void bind_shards(py::module_& m);
void bind_cuda(py::module_& m);

}  // namespace bindings
}  // namespace tsloss
