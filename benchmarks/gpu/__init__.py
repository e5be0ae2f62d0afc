"""The CUDA kernels against what else a GPU could do, and against the goals."""
