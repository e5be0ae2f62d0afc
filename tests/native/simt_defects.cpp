// Kernels with one defect each, and two without: does the executor see it?
//
//   simt_defects NAME [seed] [order] [preempt] [fill]
//
// Prints "ran" or what the executor says.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>

#include "cuda/port.cuh"

namespace {

constexpr int kThreads = 32;
constexpr int kNumbers = 40;

__global__ void shared_overrun(float* out) {
  TSLOSS_SHARED(float, s, kThreads);
  const int t = static_cast<int>(threadIdx.x);
  s[t + (t == 31)] = 1;
  __syncthreads();
  out[t] = s[t];
}

__global__ void shared_overrun_by_pointer(float* out) {
  TSLOSS_SHARED(float, s, kThreads);
  TSLOSS_SHARED(float, next, kThreads);
  float* end = s + kThreads;
  next[threadIdx.x] = 0;
  end[threadIdx.x % 2] = 1;
  __syncthreads();
  out[threadIdx.x] = next[0];
}

__global__ void dynamic_overrun(float* out) {
  TSLOSS_DYNAMIC_SHARED(raw);
  float* s = reinterpret_cast<float*>(raw);
  s[threadIdx.x + 1] = 1;
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}

__global__ void global_overrun(float* out) { out[threadIdx.x + kNumbers - kThreads + 1] = 0; }

__global__ void misaligned_vector(float* out) {
  *reinterpret_cast<float4*>(out + 1) = make_float4(0, 0, 0, 0);
}

__global__ void junk_is_read(float* out) {
  TSLOSS_SHARED(float, s, kThreads);
  out[threadIdx.x] = s[threadIdx.x];
}

__global__ void divergent_barrier(float* out) {
  if (threadIdx.x % 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

__global__ void deadlock(float* out) {
  if (threadIdx.x < 16) {
    __syncwarp();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

__global__ void livelock(float* out) {
  int* flag = reinterpret_cast<int*>(out + kThreads);
  while (atomicAdd(flag, 0) == 0) {
  }
}

__global__ void shuffle_from_inactive_lane(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xffffu, 1.0f, 1);
}

__global__ void lane_outside_its_mask(float* out) {
  out[threadIdx.x] = static_cast<float>(__reduce_add_sync(0xffffu, 1u));
}

__global__ void divergent_warp(float* out) {
  int v = 1;
  if (threadIdx.x < 16) {
    v = __shfl_xor_sync(~0u, v, 1);
  } else {
    v = __shfl_xor_sync(~0u, v, 2);
  }
  out[threadIdx.x] = static_cast<float>(v);
}

__global__ void missing_syncwarp(float* out) {
  TSLOSS_SHARED(float, s, kThreads);
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}

__global__ void missing_barrier(float* out) {
  TSLOSS_SHARED(float, s, 64);
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (threadIdx.x == 0) out[0] = s[63];
}

__global__ void update_without_atomic(float* out) {
  TSLOSS_SHARED(int, count, 1);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  count[0] = count[0] + 1;
  __syncthreads();
  out[threadIdx.x] = static_cast<float>(count[0]);
}

__global__ void race_of_blocks(float* out) { out[threadIdx.x] = static_cast<float>(blockIdx.x); }

__global__ void no_fence_before_flag(float* out) {
  int* count = reinterpret_cast<int*>(out + kThreads);
  if (threadIdx.x == 0) {
    out[blockIdx.x] = 1;
    if (atomicAdd(count, 1) == static_cast<int>(gridDim.x) - 1) out[31] = out[0] + out[1];
  }
}

__global__ void copy_that_nobody_waits_for(float* out) {
  TSLOSS_SHARED(float, s, kThreads);
  tsloss::cuda::copy_later<4>(s + threadIdx.x, out + kThreads + threadIdx.x % 8);
  out[threadIdx.x] = s[threadIdx.x];
}

__global__ void misaligned_copy(float* out) {
  TSLOSS_SHARED(float4, s, 1);
  tsloss::cuda::copy_later<16>(s, out + 1);
  tsloss::cuda::wait_for_copies();
}

// Nothing is wrong with these.

__global__ void copy_that_is_waited_for(float* out) {
  TSLOSS_SHARED(float, s, kThreads);
  tsloss::cuda::copy_later<4>(s + threadIdx.x, out + kThreads + threadIdx.x % 8);
  tsloss::cuda::wait_for_copies();
  out[threadIdx.x] = s[threadIdx.x];
}

__global__ void fence_before_flag(float* out) {
  int* count = reinterpret_cast<int*>(out + kThreads);
  if (threadIdx.x == 0) {
    out[blockIdx.x] = 1;
    __threadfence();
    const bool last = atomicAdd(count, 1) == static_cast<int>(gridDim.x) - 1;
    __threadfence();
    if (last) out[31] = out[0] + out[1];
  }
}

__global__ void everything(float* out) {
  TSLOSS_SHARED(float, s, kThreads);
  const unsigned t = threadIdx.x;
  if (t == 40) return;
  s[t % kThreads] = 0;
  __syncthreads();
  if (t < kThreads) s[t] = static_cast<float>(t);
  __syncthreads();
  float v = s[(t + 1) % kThreads];
  for (int k = 16; k > 0; k /= 2) v += __shfl_xor_sync(~0u, v, k);
  if (t == 0) atomicAdd(out, v);
  const bool agree =
      __syncthreads_and(1) && __syncthreads_or(t == 0) && __syncthreads_count(1) == 32;
  const unsigned odd = __ballot_sync(~0u, t % 2);
  const int least = __reduce_min_sync(~0u, -static_cast<int>(t));
  const unsigned same = __match_any_sync(~0u, t / 2);
  const int up = __shfl_up_sync(~0u, static_cast<int>(t), 1, 8);
  const int good = agree && odd == 0xaaaaaaaau && least == -31 && same == (3u << (t & ~1u)) &&
                   up == static_cast<int>(t % 8 ? t - 1 : t);
  if (__all_sync(~0u, good) && t == 0) atomicMax(reinterpret_cast<int*>(out + 1), 1);
}

struct Case {
  void (*kernel)(float*);
  unsigned blocks, threads;
  int64_t dynamic;
};

const std::map<std::string, Case> kCases = {
#define CASE(name, blocks, threads, dynamic)  \
  {                                           \
    #name, { name, blocks, threads, dynamic } \
  }
    CASE(shared_overrun, 1, 32, 0),
    CASE(shared_overrun_by_pointer, 1, 32, 0),
    CASE(dynamic_overrun, 1, 32, 128),
    CASE(global_overrun, 1, 32, 0),
    CASE(misaligned_vector, 1, 1, 0),
    CASE(junk_is_read, 1, 32, 0),
    CASE(divergent_barrier, 1, 32, 0),
    CASE(deadlock, 1, 32, 0),
    CASE(livelock, 1, 1, 0),
    CASE(shuffle_from_inactive_lane, 1, 32, 0),
    CASE(lane_outside_its_mask, 1, 32, 0),
    CASE(divergent_warp, 1, 32, 0),
    CASE(missing_syncwarp, 1, 32, 0),
    CASE(missing_barrier, 1, 64, 0),
    CASE(update_without_atomic, 1, 32, 0),
    CASE(race_of_blocks, 2, 32, 0),
    CASE(no_fence_before_flag, 2, 32, 0),
    CASE(copy_that_nobody_waits_for, 1, 32, 0),
    CASE(misaligned_copy, 1, 1, 0),
    CASE(copy_that_is_waited_for, 1, 32, 0),
    CASE(fence_before_flag, 2, 32, 0),
    CASE(everything, 3, 32, 0),
#undef CASE
};

}  // namespace

int main(int argc, char** argv) {
  const auto found = kCases.find(argc > 1 ? argv[1] : "");
  if (found == kCases.end()) return std::fprintf(stderr, "no such case\n"), 2;
  const Case& c = found->second;
  if (argc > 2) simt::options.seed = std::strtoull(argv[2], nullptr, 10);
  if (argc > 3) simt::options.order = static_cast<simt::Order>(std::atoi(argv[3]));
  if (argc > 4) simt::options.preempt = static_cast<unsigned>(std::atoi(argv[4]));
  if (argc > 5) simt::options.fill = static_cast<unsigned char>(std::atoi(argv[5]));
  simt::options.switches = 100000;
  std::unique_ptr<float[]> out(new float[kNumbers]());
  try {
    simt::launch(c.kernel, dim3(c.blocks), dim3(c.threads), c.dynamic, out.get());
  } catch (const simt::Error& error) {
    std::printf("%s\n", error.what());
    return 3;
  }
  std::printf("ran: %g %g, %g\n", double(out[0]), double(simt::bits_to<int>(out[1])),
              double(out[31]));
  return 0;
}
