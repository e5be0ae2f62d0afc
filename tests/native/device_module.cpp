// The CUDA part of the module _core over a fake CUDA runtime, which runs the kernels on the host
// executor: from their source, or with TSLOSS_PTX from the PTX that nvcc made of it. Device memory
// is that of the host. See tests/gpu/test_cuda_device.py.
#include <cuda_runtime.h>

#include <functional>
#include <utility>

#include "bindings/array.cpp"
#include "bindings/cuda.cpp"
#include "cpu/shape.cpp"

// Tensors come as capsules alone: csrc/bindings/torch.cpp, which takes them themselves, needs the
// core of the CPU.
tsloss::bindings::py::object tsloss::bindings::describe(py::handle capsule, const char* name,
                                                        DLTensor& found) {
  found = of_capsule(capsule, name);
  return py::reinterpret_borrow<py::object>(capsule);
}

namespace {

// The CUDA runtime gets a kernel without its type, so the launch just before leaves a call of it.
thread_local std::function<void(void** arguments)> kernel_of_this_launch;

template <class... P, size_t... k>
void call(void (*kernel)(P...), void** arguments, std::index_sequence<k...>) {
  kernel(*static_cast<P*>(arguments[k])...);
}

template <class... P>
void remember(void (*kernel)(P...)) {
  kernel_of_this_launch = [kernel](void** arguments) {
    call(kernel, arguments, std::index_sequence_for<P...>());
  };
}

}  // namespace

#define cudaLaunchKernel(...) (remember(kernel), cudaLaunchKernel(__VA_ARGS__))
#include "cuda/launch.cu"
#undef cudaLaunchKernel
#include "fake_cuda/runtime.h"
#include "simt_launch.h"

namespace {

// The limits of the kernel that a symbol belongs to.
const simt::KernelLimits& limits_of_symbol(const std::string& symbol) {
  for (const NamedLimits& known : kLimits) {
    const std::string name = known.kernel;
    if (symbol.find(std::to_string(name.size()) + name) != std::string::npos) return known.limits;
  }
  throw std::runtime_error(symbol + " is no kernel of csrc/cuda/kernels.md");
}

#ifdef TSLOSS_PTX
simt::KernelLimits limits_of(const void* kernel) {
  const ptx::Entry& entry = entry_of(kernel);
  return {entry.threads, limits_of_symbol(entry.name).registers, entry.static_shared};
}

void run(const void* kernel, dim3 grid, dim3 block, void** arguments, int shared) {
  const ptx::Entry& entry = entry_of(kernel);
  simt::run(grid, block, shared, [&] { entry.run(arguments); }, limits_of(kernel));
}
#else
simt::KernelLimits limits_of(const void* kernel) { return limits_of_symbol(symbol_of(kernel)); }

void run(const void* kernel, dim3 grid, dim3 block, void** arguments, int shared) {
  simt::run(grid, block, shared, [&] { kernel_of_this_launch(arguments); }, limits_of(kernel));
}
#endif

}  // namespace

PYBIND11_MODULE(device_module, m) {
  fake_cuda::static_bytes = [](const void* kernel) {
    return static_cast<int>(limits_of(kernel).static_shared);
  };
  fake_cuda::run = run;
  simt::options.switches = uint64_t{1} << 32;
  simt::options.stack_bytes = size_t{128} << 10;
  tsloss::bindings::bind_cuda(m);
}
