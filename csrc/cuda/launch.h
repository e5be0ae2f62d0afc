// The CUDA kernels as functions of device pointers, for the bindings. Nothing here allocates, waits
// for the device or looks at the data, so calls can be captured in a graph.
#pragma once

#include <stdexcept>

#include "tsloss.h"

namespace tsloss {
namespace cuda {

// Of the numbers of a cloud. Deaths of half types are of single precision.
enum class Number : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

// Says which kernel failed on which device.
struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Queue {
  int device;
  void* stream;  // cudaStream_t
};

enum class Pass : int { kForward = 0, kBackward = 1, kFromDistances = 2 };

// Bytes of workspace on the device that a pass takes, which need no initialisation. If it takes
// none, the pass may be given a null pointer.
int64_t workspace_bytes(Pass pass, Number number, Metric metric, const BatchShape& shape,
                        int device);

// As h0_forward of tsloss.h, with all arrays (lengths as well) on the device. findings (batch, 3):
// for each cloud what is wrong (Problem), and points i and j or -1.
void h0_forward(const Queue& queue, Number number, Metric metric, const BatchShape& shape,
                const void* points, void* deaths, int64_t* edges, int64_t* findings,
                void* workspace);

// As h0_from_distances of tsloss.h; float32 and float64.
void h0_from_distances(const Queue& queue, Number number, const BatchShape& shape,
                       const void* distances, double symmetry_tolerance, void* deaths,
                       int64_t* edges, int64_t* findings, void* workspace);

void h0_backward(const Queue& queue, Number number, Metric metric, const BatchShape& shape,
                 const void* grad_deaths, const void* points, const void* deaths,
                 const int64_t* edges, void* grad_points, void* workspace);

}  // namespace cuda
}  // namespace tsloss
