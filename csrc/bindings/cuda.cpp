// The CUDA kernels, in a build that has them, for tsloss_fast/_ops_cuda.py.
#include "bindings/bindings.h"
#ifdef TSLOSS_WITH_CUDA
#include "cuda/launch.h"
#endif

namespace tsloss {
namespace bindings {

#ifdef TSLOSS_WITH_CUDA
namespace {

// Points or distances on some device, and its other tensors.
struct Input {
  Array values;
  cuda::Number number;
  Batch batch;

  Input(py::handle tensor, const char* name, py::handle lengths)
      : values(tensor, name, std::nullopt),
        number(number_of(values)),
        batch(values, lengths, py::none()) {}

  static cuda::Number number_of(const Array& values) {
    const Type types[] = {kSingle, kDouble, kHalf, kBrain};
    for (int k = 0; k < 4; ++k) {
      if (values.type() == types[k]) return static_cast<cuda::Number>(k);
    }
    values.refuse("float16, bfloat16, float32 or float64");
  }
  Type deaths() const { return values.type() == kDouble ? kDouble : kSingle; }
  int device() const { return values.device().index; }
  void* data() const {
    return values.at(values.type(), {batch.shape.batch, batch.shape.points, batch.shape.dim});
  }
  Array beside(py::handle tensor, const char* name) const {
    return Array(tensor, name, values.device());
  }
  int64_t* findings(py::handle tensor) const {
    return beside(tensor, "findings").at<int64_t>({batch.shape.batch, 3});
  }
  int64_t workspace_bytes(cuda::Pass pass, Metric metric) const {
    return cuda::workspace_bytes(pass, number, metric, batch.shape, device());
  }
  void* workspace(py::handle tensor, cuda::Pass pass, Metric metric) const {
    return beside(tensor, "workspace").at(kUint8, {workspace_bytes(pass, metric)});
  }
};

void* stream_at(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

}  // namespace
#endif

void bind_cuda(py::module_& m) {
#ifdef TSLOSS_WITH_CUDA
  m.def(
      "cuda_workspace",
      [](int which, int metric, py::handle values) {
        const auto pass = static_cast<cuda::Pass>(which);
        const bool matrices = pass == cuda::Pass::kFromDistances;
        const Input x(values, matrices ? "distances" : "points", py::none());
        if (matrices) x.values.real();
        return x.workspace_bytes(pass, static_cast<Metric>(metric));
      },
      py::arg("pass_"), py::arg("metric"), py::arg("values"));
  m.def(
      "cuda_h0_forward",
      [](int code, py::handle points, py::handle lengths, py::handle deaths, py::handle edges,
         py::handle findings, py::handle workspace, std::uintptr_t stream) {
        const auto metric = static_cast<Metric>(code);
        const Input x(points, "points", lengths);
        const void* from = x.data();
        void* to_deaths = x.batch.bars(deaths, "deaths", x.deaths());
        int64_t* to_edges = x.batch.edges(edges);
        int64_t* to_findings = x.findings(findings);
        void* scratch = x.workspace(workspace, cuda::Pass::kForward, metric);
        py::gil_scoped_release release;
        cuda::h0_forward({x.device(), stream_at(stream)}, x.number, metric, x.batch.shape, from,
                         to_deaths, to_edges, to_findings, scratch);
      },
      py::arg("metric"), py::arg("points"), py::arg("lengths"), py::arg("deaths"), py::arg("edges"),
      py::arg("findings"), py::arg("workspace"), py::arg("stream"));
  m.def(
      "cuda_h0_backward",
      [](int code, py::handle grad_deaths, py::handle points, py::handle deaths, py::handle edges,
         py::handle grad_points, py::handle workspace, std::uintptr_t stream) {
        const auto metric = static_cast<Metric>(code);
        const Input x(points, "points", py::none());
        const BatchShape& shape = x.batch.shape;
        const void* from = x.data();
        const void* grad = x.batch.bars(grad_deaths, "grad_deaths", x.deaths());
        const void* of_deaths = x.batch.bars(deaths, "deaths", x.deaths());
        const int64_t* of_edges = x.batch.edges(edges);
        void* to = x.beside(grad_points, "grad_points")
                       .at(x.values.type(), {shape.batch, shape.points, shape.dim});
        void* scratch = x.workspace(workspace, cuda::Pass::kBackward, metric);
        py::gil_scoped_release release;
        cuda::h0_backward({x.device(), stream_at(stream)}, x.number, metric, shape, grad, from,
                          of_deaths, of_edges, to, scratch);
      },
      py::arg("metric"), py::arg("grad_deaths"), py::arg("points"), py::arg("deaths"),
      py::arg("edges"), py::arg("grad_points"), py::arg("workspace"), py::arg("stream"));
  m.def(
      "cuda_h0_from_distances",
      [](py::handle distances, py::handle lengths, double symmetry_tolerance, py::handle deaths,
         py::handle edges, py::handle findings, py::handle workspace, std::uintptr_t stream) {
        const Input d(distances, "distances", lengths);
        d.values.real();
        const BatchShape& shape = d.batch.shape;
        const void* from = d.values.at(d.values.type(), {shape.batch, shape.points, shape.points});
        void* to_deaths = d.batch.bars(deaths, "deaths", d.deaths());
        int64_t* to_edges = d.batch.edges(edges);
        int64_t* to_findings = d.findings(findings);
        void* scratch = d.workspace(workspace, cuda::Pass::kFromDistances, Metric::kEuclidean);
        py::gil_scoped_release release;
        cuda::h0_from_distances({d.device(), stream_at(stream)}, d.number, shape, from,
                                symmetry_tolerance, to_deaths, to_edges, to_findings, scratch);
      },
      py::arg("distances"), py::arg("lengths"), py::arg("symmetry_tolerance"), py::arg("deaths"),
      py::arg("edges"), py::arg("findings"), py::arg("workspace"), py::arg("stream"));
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
