// csrc/cuda/launch.cu over a fake CUDA runtime, as a library for ctypes; see
// tests/gpu/test_cuda_launches.py.
#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cuda/launch.cu"

namespace {

constexpr int kOptIn = 227 << 10;     // of an H100
constexpr int kByDefault = 48 << 10;  // static and dynamic, without an opt-in
constexpr int kStatic = 48;           // bytes that each kernel declares here

using Place = std::pair<const void*, int>;  // kernel and device

struct Recorded {
  Place place;
  size_t shared;
};

std::mutex mutex;  // of everything below
std::map<Place, int> allowance;
std::map<Place, int> numbers;  // short names of the kernels on a device
std::vector<Recorded> captured;
std::string calls;
std::string message;
cudaError_t last_error = cudaSuccess;
int refusals = 0;      // how many of the next calls of cudaFuncSetAttribute fail
int64_t intruder = 0;  // points of a cloud that another thread computes before the next launch
thread_local int current_device = 0;

int allowed_to(const Place& place) {
  const auto found = allowance.find(place);
  return found == allowance.end() ? kByDefault - kStatic : found->second;
}

void say(const char* what, const void* kernel, long value) {
  const Place place{kernel, current_device};
  const auto number = numbers.emplace(place, static_cast<int>(numbers.size())).first->second;
  calls += std::string(what) + " " + std::to_string(number) + " " + std::to_string(value) + "\n";
}

cudaError_t fails(cudaError_t error) { return last_error = error; }

void compute(int device, int64_t batch, int64_t points, int64_t dim) {
  // The addresses are never read: no kernel runs.
  float* const any = reinterpret_cast<float*>(256);
  int64_t* const whole = reinterpret_cast<int64_t*>(256);
  tsloss::cuda::h0_forward({device, nullptr}, tsloss::cuda::Number::kFloat32,
                           tsloss::Metric::kEuclidean, {batch, points, dim, nullptr}, any, any,
                           whole, whole, any);
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorInvalidValue ? "cudaErrorInvalidValue" : "cudaErrorLaunchFailure";
}
const char* cudaGetErrorString(cudaError_t) { return "refused by the fake runtime"; }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 132 : kOptIn;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->sharedSizeBytes = kStatic;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  const std::lock_guard<std::mutex> lock(mutex);
  say("allow", kernel, value);
  if (refusals > 0 && refusals-- > 0) return fails(cudaErrorLaunchFailure);
  if (value < 0 || value > kOptIn - kStatic) return fails(cudaErrorInvalidValue);
  allowance[{kernel, current_device}] = value;
  return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3, dim3, void**, size_t shared, cudaStream_t) {
  int64_t other = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (shared > kByDefault) other = std::exchange(intruder, 0);
  }
  if (other > 0) {
    const int device = current_device;
    std::thread([=] { compute(device, 1, other, 3); }).join();
  }
  const std::lock_guard<std::mutex> lock(mutex);
  say("launch", kernel, static_cast<long>(shared));
  captured.push_back({{kernel, current_device}, shared});
  if (static_cast<int>(shared) > allowed_to({kernel, current_device})) {
    return fails(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

extern "C" {

// Computes a batch. Returns null, or what was thrown.
const char* forward(int device, int64_t batch, int64_t points, int64_t dim) {
  try {
    compute(device, batch, points, dim);
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

void refuse_allowances(int count) { refusals = count; }
void intrude(int64_t points) { intruder = points; }
int pending_error() { return last_error; }
int device_in_use() { return current_device; }
const char* all_calls() { return calls.c_str(); }
void begin() {
  calls.clear();
  captured.clear();
}

// How many of the launches since `begin` a graph of them could not replay with the allowances that
// the kernels have now.
int not_replayable() {
  return static_cast<int>(
      std::count_if(captured.begin(), captured.end(), [](const Recorded& launch) {
        return static_cast<int>(launch.shared) > allowed_to(launch.place);
      }));
}

}  // extern "C"
