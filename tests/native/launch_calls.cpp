// csrc/cuda/launch.cu over a fake CUDA runtime that runs no kernel, as a library for ctypes; see
// tests/gpu/test_cuda_launches.py.
#include <algorithm>
#include <thread>

#include "cuda/launch.cu"
#include "fake_cuda/runtime.h"

namespace {

std::string text;

void compute(int device, int64_t points) {
  // The addresses are never read: no kernel runs.
  float* const numbers = reinterpret_cast<float*>(256);
  int64_t* const whole = reinterpret_cast<int64_t*>(256);
  tsloss::cuda::h0_forward({device, nullptr}, tsloss::cuda::Number::kFloat32,
                           tsloss::Metric::kEuclidean, {1, points, 3, nullptr}, numbers, numbers,
                           whole, whole, numbers);
}

}  // namespace

extern "C" {

// Computes a cloud. Returns null, or what was thrown.
const char* forward(int device, int64_t points) {
  try {
    compute(device, points);
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}

// Another thread will compute a cloud before the next launch that needs an allowance.
void intrude(int device, int64_t points) {
  fake_cuda::intruder = [=] { std::thread([=] { compute(device, points); }).join(); };
}

void refuse_allowances(int count) { fake_cuda::refusals = count; }
int pending_error() { return fake_cuda::last_error; }
int device_in_use() { return fake_cuda::current_device; }
void forget_calls() { fake_cuda::calls.clear(); }

// A line for each call: what, the address of the kernel, bytes of dynamic shared memory.
const char* all_calls() {
  text.clear();
  for (const fake_cuda::Call& call : fake_cuda::calls) {
    const auto kernel = reinterpret_cast<uintptr_t>(call.place.first);
    text += std::string(call.what) + " " + std::to_string(kernel) + " " +
            std::to_string(call.shared) + "\n";
  }
  return text.c_str();
}

// How many of the launches a graph of them could not replay with the allowances of now.
int not_replayable() {
  const auto& calls = fake_cuda::calls;
  return static_cast<int>(
      std::count_if(calls.begin(), calls.end(), [](const fake_cuda::Call& call) {
        return call.shared > fake_cuda::allowed_to(call.place) && call.what[0] == 'l';
      }));
}

}  // extern "C"
