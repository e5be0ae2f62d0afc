// What differs between nvcc and the host executor of the tests (../simt): kernels include this and
// nothing else of CUDA.
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define TSLOSS_SHARED(T, name, count) __shared__ T name[count]
#define TSLOSS_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#else
#include "simt/cuda_words.h"
#define TSLOSS_SHARED(T, name, count) T(&name)[count] = ::simt::shared_variable<T[count]>([] {})
#define TSLOSS_DYNAMIC_SHARED(name) \
  unsigned char* name = static_cast<unsigned char*>(::simt::dynamic_shared())
#endif
