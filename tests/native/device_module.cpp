// The CUDA part of the module _core over a fake CUDA runtime, which runs the PTX of the kernels on
// the host executor. Device memory is that of the host. See tests/gpu/test_cuda_device.py.
#include "bindings/cuda.cpp"
#include "cuda/launch.cu"
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

void run_ptx(const void* kernel, dim3 grid, dim3 block, void** arguments, int shared) {
  const ptx::Entry& entry = entry_of(kernel);
  simt::run(grid, block, shared, [&] { entry.run(arguments); },
            {entry.threads, limits_of_symbol(entry.name).registers, entry.static_shared});
}

}  // namespace

PYBIND11_MODULE(device_module, m) {
  fake_cuda::static_bytes = [](const void* kernel) {
    return static_cast<int>(entry_of(kernel).static_shared);
  };
  fake_cuda::run = run_ptx;
  simt::options.switches = uint64_t{1} << 32;
  simt::options.stack_bytes = size_t{128} << 10;
  tsloss::bindings::bind_cuda(m);
}
