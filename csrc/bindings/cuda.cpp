// The CUDA kernels, in a build that has them, for tsloss_fast/_ops_cuda.py.
#include "bindings/bindings.h"
#ifdef TSLOSS_WITH_CUDA
#include "cuda/launch.h"
#endif

namespace tsloss {
namespace bindings {

void bind_cuda(py::module_& m) {
#ifdef TSLOSS_WITH_CUDA
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
}

}  // namespace bindings
}  // namespace tsloss
