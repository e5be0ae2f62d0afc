// How kernels are launched on the host executor: from their source, or with TSLOSS_PTX from the PTX
// that nvcc made of it. Both check the limits of kernel_limits.inc, which tests/gpu/cuda_host.py
// writes.
#pragma once

#include <dlfcn.h>

#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <tuple>

#include "cuda/passes.cuh"

#ifdef TSLOSS_PTX
#include "ptx_entries.h"
#endif

namespace {

using namespace tsloss::cuda;

struct NamedLimits {
  const char* kernel;
  simt::KernelLimits limits;
};
const NamedLimits kLimits[] = {
#include "kernel_limits.inc"
};

const simt::KernelLimits& limits_of(const char* kernel) {
  for (const NamedLimits& known : kLimits) {
    if (std::strcmp(known.kernel, kernel) == 0) return known.limits;
  }
  throw std::runtime_error(
      "its limits are unknown: expected a row of csrc/cuda/kernels.md, which TSLOSS_UPDATE=1 "
      "pytest "
      "tests/gpu/test_cuda_static.py writes");
}

inline std::string symbol_of(const void* kernel) {
  Dl_info found;
  if (!dladdr(kernel, &found) || !found.dli_sname) {
    throw std::runtime_error("it has no symbol: link with -rdynamic");
  }
  return found.dli_sname;
}

#ifdef TSLOSS_PTX
// The entry that has the symbol of a kernel.
const ptx::Entry& entry_of(const void* kernel) {
  const std::string symbol = symbol_of(kernel);
  for (const ptx::Entry& entry : ptx::entries) {
    if (symbol == entry.name) return entry;
  }
  throw std::runtime_error("no PTX entry " + symbol + " was compiled");
}

template <class... P>
void run_kernel(void (*kernel)(P...), const simt::KernelLimits& known, dim3 grid, dim3 block,
                int64_t shared, std::tuple<P...>& values) {
  const ptx::Entry& entry = entry_of(reinterpret_cast<const void*>(kernel));
  if (entry.parameters != std::vector<size_t>{sizeof(P)...}) {
    throw std::runtime_error("its parameters have other sizes in PTX than in C++");
  }
  std::apply(
      [&](auto&... each) {
        void* pointers[] = {&each...};
        simt::run(grid, block, shared, [&] { entry.run(pointers); },
                  {entry.threads, known.registers, entry.static_shared});
      },
      values);
}
#else
template <class... P>
void run_kernel(void (*kernel)(P...), const simt::KernelLimits& known, dim3 grid, dim3 block,
                int64_t shared, const std::tuple<P...>& values) {
  simt::run(grid, block, shared, [&] { std::apply(kernel, values); }, known);
}
#endif

struct HostLaunch {
  template <class... P, class... A>
  void operator()(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, int64_t shared,
                  A&&... arguments) {
    try {
      std::tuple<P...> values(static_cast<P>(arguments)...);
      run_kernel(kernel, limits_of(name), grid, block, shared, values);
    } catch (const std::exception& error) {
      throw std::runtime_error(std::string("kernel ") + name + ": " + error.what());
    }
  }
};

}  // namespace
