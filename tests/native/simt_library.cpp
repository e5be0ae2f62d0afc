// The CUDA kernels on the host executor as a library for ctypes; see tests/gpu/cuda_host.py.
#include "simt_kernels.h"

extern "C" uint64_t atomics() { return simt::atomics(); }
