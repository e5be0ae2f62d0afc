// Implements cuda_runtime.h. Exactly one file of a library includes this.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace fake_cuda {

constexpr int kOptIn = 227 << 10;     // bytes of shared memory of a block of an H100
constexpr int kByDefault = 48 << 10;  // the same without an allowance

using Place = std::pair<const void*, int>;  // a kernel on a device

struct Call {
  const char* what;  // "allow" or "launch"
  Place place;
  int shared;  // bytes of dynamic shared memory
};

// How kernels are run, and their static shared memory. A library that runs none keeps these.
inline std::function<int(const void* kernel)> static_bytes = [](const void*) { return 48; };
inline std::function<void(const void* kernel, dim3 grid, dim3 block, void** arguments, int shared)>
    run = [](const void*, dim3, dim3, void**, int) {};

inline std::mutex mutex;  // of what follows
inline std::map<Place, int> allowances;
inline std::vector<Call> calls;
inline int refusals = 0;                // how many of the next allowances are refused
inline std::function<void()> intruder;  // runs once, before a launch with an allowance
inline cudaError_t last_error = cudaSuccess;
inline std::string reason = "refused by the fake runtime";
inline thread_local int current_device = 0;

inline int allowed_to(const Place& place) {
  const auto found = allowances.find(place);
  return found == allowances.end() ? kByDefault - static_bytes(place.first) : found->second;
}

inline cudaError_t fails(cudaError_t error) { return last_error = error; }

}  // namespace fake_cuda

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorInvalidValue ? "cudaErrorInvalidValue" : "cudaErrorLaunchFailure";
}
const char* cudaGetErrorString(cudaError_t) { return fake_cuda::reason.c_str(); }
cudaError_t cudaGetLastError() { return std::exchange(fake_cuda::last_error, cudaSuccess); }
cudaError_t cudaGetDevice(int* device) {
  *device = fake_cuda::current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  fake_cuda::current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 132 : fake_cuda::kOptIn;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  attributes->sharedSizeBytes = static_cast<size_t>(fake_cuda::static_bytes(kernel));
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  using namespace fake_cuda;
  const std::lock_guard<std::mutex> lock(mutex);
  const Place place{kernel, current_device};
  calls.push_back({"allow", place, value});
  if (refusals > 0 && refusals-- > 0) return fails(cudaErrorLaunchFailure);
  if (value < 0 || value > kOptIn - static_bytes(kernel)) return fails(cudaErrorInvalidValue);
  allowances[place] = value;
  return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                             size_t shared, cudaStream_t) {
  using namespace fake_cuda;
  const int bytes = static_cast<int>(shared);
  std::function<void()> other;
  if (bytes > kByDefault) {
    const std::lock_guard<std::mutex> lock(mutex);
    other = std::exchange(intruder, nullptr);
  }
  if (other) other();
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const Place place{kernel, current_device};
    calls.push_back({"launch", place, bytes});
    if (bytes > allowed_to(place)) return fails(cudaErrorInvalidValue);
  }
  try {
    run(kernel, grid, block, arguments, bytes);
    return cudaSuccess;
  } catch (const std::exception& error) {
    reason = error.what();
    return fails(cudaErrorLaunchFailure);
  }
}
