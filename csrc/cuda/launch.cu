// Launches on a stream; every launch is followed by a check of its own result.
#include "cuda/launch.h"

#include <cuda_runtime.h>

#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "cuda/passes.cuh"

namespace tsloss {
namespace cuda {

namespace {

void check(cudaError_t error, const std::string& what, int device) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // Clears the error: it is reported here, and by no later call of torch.
  throw CudaError(what + " on CUDA device " + std::to_string(device) + ": " +
                  cudaGetErrorName(error) + ": " + cudaGetErrorString(error));
}

// Makes a device the current one, for as long as it lives.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "asking for the current device", device);
    if (before_ == device) before_ = -1;
    if (before_ >= 0) check(cudaSetDevice(device), "choosing the device", device);
  }
  ~OnDevice() {
    if (before_ >= 0) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = -1;
};

// Bytes of shared memory, static and dynamic, that a block can have.
int most_shared_memory(int device) {
  int bytes = 0;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "asking for shared memory", device);
  return bytes;
}

Device device_of(int device) {
  int processors = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
        "counting multiprocessors", device);
  // Kernels with dynamic shared memory have at most 64 bytes of static shared memory as well.
  return {processors, int64_t{most_shared_memory(device)} - 64};
}

// Allows a kernel all the dynamic shared memory that the device can give it, once for each kernel
// and device. The allowance belongs to the kernel, not to a launch: if a launch set it to its own
// need, another host thread, or a later launch of a captured graph, could lower it in between.
void allow_shared_memory(const void* kernel, const std::string& what, int device) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  const std::lock_guard<std::mutex> lock(mutex);
  if (allowed.count({kernel, device}) != 0) return;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), what, device);
  const int most = most_shared_memory(device) - static_cast<int>(attributes.sharedSizeBytes);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), what,
        device);
  allowed.insert({kernel, device});
}

class Launch {
 public:
  explicit Launch(const Queue& queue) : queue_(queue) {}

  template <class... P, class... A>
  void operator()(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, int64_t shared,
                  A&&... arguments) {
    const void* code = reinterpret_cast<const void*>(kernel);
    const std::string what = std::string("launching kernel ") + name;
    if (shared > 0) allow_shared_memory(code, what, queue_.device);
    std::tuple<P...> values(std::forward<A>(arguments)...);
    std::apply(
        [&](auto&... each) {
          void* pointers[] = {&each...};
          check(cudaLaunchKernel(code, grid, block, pointers, static_cast<size_t>(shared),
                                 static_cast<cudaStream_t>(queue_.stream)),
                what, queue_.device);
        },
        values);
  }

 private:
  Queue queue_;
};

// body(number, death) with values of both types.
template <class F>
void with_types(Number number, F&& body) {
  switch (number) {
    case Number::kFloat32:
      return body(float{}, float{});
    case Number::kFloat64:
      return body(double{}, double{});
    case Number::kFloat16:
      return body(Half{}, float{});
    case Number::kBFloat16:
      return body(BFloat16{}, float{});
  }
}

// body(number) with a value of the type, which is none of the half ones.
template <class F>
void with_whole_types(Number number, F&& body) {
  if (number == Number::kFloat64) {
    body(double{});
  } else {
    body(float{});
  }
}

}  // namespace

int64_t workspace_bytes(Pass pass, Number number, Metric metric, const BatchShape& shape,
                        int device) {
  const Device limits = device_of(device);
  Launch launch({device, nullptr});
  const Carver count = Carver::counting();
  int64_t bytes = 0;
  if (pass == Pass::kFromDistances) {
    with_whole_types(number, [&](auto p) {
      using P = decltype(p);
      bytes = h0_from_distances<P>(launch, shape, limits, nullptr, 0, {}, count);
    });
    return bytes;
  }
  with_types(number, [&](auto p, auto d) {
    using P = decltype(p);
    using D = decltype(d);
    bytes = pass == Pass::kBackward
                ? h0_backward<P, D>(launch, metric, shape, kSmallCloud, nullptr, nullptr, nullptr,
                                    nullptr, nullptr, count)
                : h0_forward<P, D>(launch, metric, shape, limits, nullptr, {}, count);
  });
  return bytes;
}

void h0_forward(const Queue& queue, Number number, Metric metric, const BatchShape& shape,
                const void* points, void* deaths, int64_t* edges, int64_t* findings,
                void* workspace) {
  const OnDevice guard(queue.device);
  const Device limits = device_of(queue.device);
  Launch launch(queue);
  with_types(number, [&](auto p, auto d) {
    using P = decltype(p);
    using D = decltype(d);
    h0_forward<P, D>(launch, metric, shape, limits, static_cast<const P*>(points),
                     {static_cast<D*>(deaths), edges, findings}, Carver(workspace));
  });
}

void h0_from_distances(const Queue& queue, Number number, const BatchShape& shape,
                       const void* distances, double symmetry_tolerance, void* deaths,
                       int64_t* edges, int64_t* findings, void* workspace) {
  const OnDevice guard(queue.device);
  const Device limits = device_of(queue.device);
  Launch launch(queue);
  with_whole_types(number, [&](auto p) {
    using P = decltype(p);
    h0_from_distances<P>(launch, shape, limits, static_cast<const P*>(distances),
                         symmetry_tolerance, {static_cast<P*>(deaths), edges, findings},
                         Carver(workspace));
  });
}

void h0_backward(const Queue& queue, Number number, Metric metric, const BatchShape& shape,
                 const void* grad_deaths, const void* points, const void* deaths,
                 const int64_t* edges, void* grad_points, void* workspace) {
  const OnDevice guard(queue.device);
  Launch launch(queue);
  with_types(number, [&](auto p, auto d) {
    using P = decltype(p);
    using D = decltype(d);
    h0_backward<P, D>(launch, metric, shape, kSmallCloud, static_cast<const D*>(grad_deaths),
                      static_cast<const P*>(points), static_cast<const D*>(deaths), edges,
                      static_cast<P*>(grad_points), Carver(workspace));
  });
}

}  // namespace cuda
}  // namespace tsloss
