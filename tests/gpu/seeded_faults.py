"""The process that runs the cases of gpu_small, with the kernels on the host executor as its device
and with faults in some of them: what a machine with a broken kernel would show."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from cuda_host import HostKernels
from tsloss_fast.benchmarks import gpu_small
from tsloss_fast.benchmarks.gpu_small import Bars, Case

WRONG_EDGE = "float64-cosine-2x20x600"
WRONG_GRADIENT = "float32-manhattan-2x129x5"
CUDA_ERROR = "float32-sqeuclidean-2x33x30"
KILLED = "float32-matrix-2x70x70"
FAULTS = (WRONG_EDGE, WRONG_GRADIENT, CUDA_ERROR, KILLED)
# The environment variable that names the library of the kernels.
LIBRARY = "TSLOSS_TEST_KERNELS"

right = gpu_small.compute


def on_the_executor(kernels: HostKernels, case: Case) -> Bars:
    x, lengths = case.inputs()
    given = None if lengths is None else lengths.tolist()
    if case.metric == gpu_small.MATRIX:
        out = kernels.from_distances(x, given)
        return right(case, "cpu")._replace(deaths=out.deaths, edges=out.edges)
    out = kernels.forward(x, case.metric, given, processors=132)
    weights = torch.linspace(1, 2, x.shape[1] - 1).to(out.deaths.dtype).repeat(len(x), 1)
    gradient = kernels.backward(weights, x, out.deaths, out.edges, case.metric)
    return Bars(out.deaths, out.edges, gradient)


def with_faults(kernels: HostKernels, case: Case) -> Bars:
    if case.name == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if case.name == CUDA_ERROR:
        raise RuntimeError("launching kernel small_cloud on CUDA device 0: cudaErrorIllegalAddress")
    bars = on_the_executor(kernels, case)
    if case.name == WRONG_EDGE:
        bars.edges[1, 7] = torch.tensor([3, 5])
        bars.edges[1, 9] = torch.tensor([3, 5])
    if case.name == WRONG_GRADIENT:
        bars.gradient[1, 40, 2] += 0.5
    return bars


def worker() -> None:
    kernels = HostKernels(Path(os.environ[LIBRARY]))
    kernels.set_options()

    def compute(case: Case, device: str) -> Bars:
        return right(case, "cpu") if device == "cpu" else with_faults(kernels, case)

    gpu_small.compute = compute
    gpu_small.worker()
