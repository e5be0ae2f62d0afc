// The CUDA kernels on the host executor, as functions of pointers. One file of a program includes
// this: kernels are no inline functions.
#pragma once

#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

#include "cuda/passes.cuh"
#include "simt_launch.h"

namespace {

using tsloss::BatchShape;
using tsloss::Metric;
using namespace tsloss::cuda;

std::string message;

// Workspace of its exact size, which holds junk. As torch has it, no bytes are at no address.
struct Workspace {
  explicit Workspace(int64_t bytes)
      : memory(bytes ? std::malloc(static_cast<size_t>(bytes)) : nullptr) {
    if (memory) std::memset(memory, simt::options.fill, static_cast<size_t>(bytes));
  }
  ~Workspace() { std::free(memory); }
  void* memory;
};

template <class F>
int guarded(F&& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    message = error.what();
    return 1;
  }
}

template <class F>
void with_type(int dtype, F&& body) {
  if (dtype == 0) body(float{}, float{});
  if (dtype == 1) body(double{}, double{});
  if (dtype == 2) body(Half{}, float{});
  if (dtype == 3) body(BFloat16{}, float{});
}

}  // namespace

extern "C" {

const char* last_message() { return message.c_str(); }

void set_options(int order, uint64_t seed, int preempt, int resident, int fill) {
  simt::options.order = static_cast<simt::Order>(order);
  simt::options.seed = seed;
  simt::options.preempt = static_cast<unsigned>(preempt);
  simt::options.resident = static_cast<unsigned>(resident);
  simt::options.fill = static_cast<unsigned char>(fill);
  simt::options.stack_bytes = size_t{128} << 10;
  simt::options.switches = uint64_t{1} << 32;  // large clouds are no livelock
}

// Whether a launch keeps within the limits of a kernel; nothing is run. Sizes are x, y, z.
int check_launch(const unsigned* grid, const unsigned* block, int64_t shared, unsigned threads,
                 unsigned registers, int64_t static_shared) {
  return guarded([&] {
    simt::check_launch({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared,
                       {threads, registers, static_cast<size_t>(static_shared)});
  });
}

// A launch of a kernel that finds nothing to do, by the name that its limits are known under.
int launch_idle_kernel(const char* name, const unsigned* grid, const unsigned* block,
                       int64_t shared) {
  return guarded([&] {
    HostLaunch()(name, clear_facts, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
                 shared, 0, nullptr);
  });
}

int forward(int dtype, int metric, int64_t batch, int64_t points, int64_t dim, const void* x,
            const int64_t* lengths, void* deaths, int64_t* edges, int64_t* findings, int processors,
            int64_t shared, int64_t small, int64_t stored, int64_t fused) {
  return guarded([&] {
    const BatchShape shape{batch, points, dim, lengths};
    const Device device{processors, shared, small, stored, fused};
    with_type(dtype, [&](auto number, auto death) {
      using P = decltype(number);
      using D = decltype(death);
      HostLaunch launch;
      const P* in = static_cast<const P*>(x);
      const Outputs<D> out{static_cast<D*>(deaths), edges, findings};
      const Metric m = static_cast<Metric>(metric);
      const Workspace work(h0_forward(launch, m, shape, device, in, out, Carver::counting()));
      h0_forward(launch, m, shape, device, in, out, Carver(work.memory));
    });
  });
}

int from_distances(int dtype, int64_t batch, int64_t points, const void* distances,
                   const int64_t* lengths, double tolerance, void* deaths, int64_t* edges,
                   int64_t* findings, int64_t shared, int64_t small) {
  return guarded([&] {
    const BatchShape shape{batch, points, 0, lengths};
    const Device device{4, shared, small};
    const auto run = [&](auto number) {
      using P = decltype(number);
      HostLaunch launch;
      const P* in = static_cast<const P*>(distances);
      const Outputs<P> out{static_cast<P*>(deaths), edges, findings};
      const Workspace work(
          h0_from_distances(launch, shape, device, in, tolerance, out, Carver::counting()));
      h0_from_distances(launch, shape, device, in, tolerance, out, Carver(work.memory));
    };
    if (dtype == 0) run(float{});
    if (dtype == 1) run(double{});
  });
}

int backward(int dtype, int metric, int64_t batch, int64_t points, int64_t dim, const void* grad,
             const void* x, const void* deaths, const int64_t* edges, void* out, int64_t small) {
  return guarded([&] {
    const BatchShape shape{batch, points, dim, nullptr};
    with_type(dtype, [&](auto number, auto death) {
      using P = decltype(number);
      using D = decltype(death);
      HostLaunch launch;
      const auto call = [&](Carver carver) {
        return h0_backward(launch, static_cast<Metric>(metric), shape, small,
                           static_cast<const D*>(grad), static_cast<const P*>(x),
                           static_cast<const D*>(deaths), edges, static_cast<P*>(out), carver);
      };
      const Workspace work(call(Carver::counting()));
      call(Carver(work.memory));
    });
  });
}

}  // extern "C"
