"""The CUDA kernels on the host executor (csrc/simt): called from Python, and as programs that the
sanitizers watch. Needs g++ and the source tree."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kernel_limits
import torch
from native_builds import (
    ADDRESS,
    FAKE_CUDA,
    ORDERS,
    PLAIN,
    UNDER_ADDRESS,
    UNDER_THREAD,
    build,
    once,
)
from source_tree import ROOT
from torch import Tensor

LIBRARY = ROOT / "tests/native/simt_library.cpp"
PROGRAM = ROOT / "tests/native/simt_program.cpp"
MODULE = ROOT / "tests/native/device_module.cpp"
METRICS = {"euclidean": 0, "sqeuclidean": 1, "cosine": 2, "manhattan": 3}
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
SHARED = 227 << 10  # bytes of a block of an H100


def including_limits(folder: Path) -> str:
    """The flag by which tests/native/simt_launch.h finds the limits of the kernels."""
    target = folder / "kernel_limits.inc"
    once(target, lambda: target.write_text(kernel_limits.table(), encoding="utf-8"))
    return f"-I{folder}"


def build_library(folder: Path) -> Path:
    flags = ["-O1", "-fPIC", including_limits(folder)]
    return build(folder, "simt_library.so", LIBRARY, flags, link=["-shared"])


def module_flags() -> list[str]:
    """Flags that MODULE is compiled with, beside those of a library."""
    import pybind11

    return [
        *(*FAKE_CUDA, "-fvisibility=default", "-Wno-attributes", "-DTSLOSS_WITH_CUDA"),
        *('-DTSLOSS_CUDA_ARCHITECTURES="90"', '-DTSLOSS_CUDA_TOOLKIT="none"'),
        *(f"-isystem{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))),
    ]


def build_module(folder: Path) -> Path:
    """The CUDA part of the module `_core`, over the source of the kernels."""
    flags = ["-O1", "-fPIC", including_limits(folder), *module_flags()]
    return build(folder, "device_module.so", MODULE, flags, link=["-shared"])


def build_program(folder: Path, kind: str) -> Path:
    """A program that runs all kernels: plain, or with what watches them."""
    recipes: dict[str, tuple[list[str], list[str], list[str]]] = {
        "plain": (["-O1"], PLAIN, []),
        # Optimised it is compiled for longer than all runs of it take.
        "address": (["-O0", *ADDRESS], UNDER_ADDRESS, ADDRESS),
        "thread": (["-O1", "-fsanitize=thread"], UNDER_THREAD, ["-fsanitize=thread"]),
        "coverage": (["-O0", "--coverage"], PLAIN, ["--coverage"]),
    }
    kernels, executor, link = recipes[kind]
    kernels = [*kernels, including_limits(folder)]
    return build(folder, f"simt_program-{kind}", PROGRAM, kernels, executor, link)


def run(
    program: Path,
    order: str = "random",
    seed: int = 1,
    preempt: int = 0,
    drop: str = "",
    case: int = -1,
    fill: int = 255,
    timeout: float | None = None,
) -> tuple[int, str]:
    """Run a program of `build_program`, or one case of it. Return its status and its output,
    or 124 if it was stopped: without a barrier a kernel may go round for ever."""
    if timeout is None:
        timeout = 300 if not drop or program.name.endswith("thread") else 20
    arguments = [ORDERS[order], seed, preempt, fill, drop, case]
    try:
        done = subprocess.run(
            [str(program), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"},
        )
    except subprocess.TimeoutExpired:
        return 124, ""
    return done.returncode, done.stdout + done.stderr


def each_case(said: str) -> list[str]:
    """The lines that a program prints for its cases: a hash of the results of each."""
    return [line for line in said.splitlines() if line.startswith("case ")]


def barriers(said: str) -> list[str]:
    """The places of the barriers that a program met, as `drop` takes them."""
    return [s.removeprefix("barrier ") for s in said.splitlines() if s.startswith("barrier ")]


class Outcome(NamedTuple):
    """What the forward kernels write: `findings` (B, 3) holds a problem and two points."""

    deaths: Tensor
    edges: Tensor
    findings: Tensor


Dimensions = tuple[int, int, int]


def _sizes(dimensions: Dimensions) -> Any:
    return (ctypes.c_uint * 3)(*dimensions)


def _pointer(t: Tensor | None) -> ctypes.c_void_p:
    assert t is None or t.is_contiguous()
    return ctypes.c_void_p(None if t is None else t.data_ptr())


def _junk(batch: int, n: int, dtype: torch.dtype) -> Outcome:
    bars = max(n - 1, 0)
    return Outcome(
        torch.full((batch, bars), 7.5, dtype=dtype),
        torch.full((batch, bars, 2), 77),
        torch.full((batch, 3), 99),
    )


def _lengths(lengths: Sequence[int] | None) -> Tensor | None:
    return None if lengths is None else torch.tensor(lengths, dtype=torch.int64)


class HostKernels:
    """The kernels, as functions of CPU tensors."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.last_message.restype = ctypes.c_char_p
        self._library.atomics.restype = ctypes.c_uint64

    def set_options(
        self,
        order: str = "random",
        seed: int = 1,
        preempt: int = 0,
        resident: int = 2,
        fill: int = 255,
    ) -> None:
        """How threads take turns, and what fresh memory holds."""
        self._library.set_options(ORDERS[order], ctypes.c_uint64(seed), preempt, resident, fill)

    def atomics(self) -> int:
        """How many atomic operations the kernels of this thread have run so far."""
        return int(self._library.atomics())

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, name)(*arguments):
            raise RuntimeError(self._library.last_message().decode())

    def check_launch(
        self, grid: Dimensions, block: Dimensions, shared: int, limits: tuple[int, int, int]
    ) -> None:
        """Raises if a launch is beyond the limits of a kernel: threads of a block, registers of a
        thread, bytes of static shared memory."""
        threads, registers, static = limits
        sizes = (_sizes(grid), _sizes(block), ctypes.c_int64(shared))
        self._call("check_launch", *sizes, threads, registers, ctypes.c_int64(static))

    def launch_idle_kernel(
        self, name: str, grid: Dimensions, block: Dimensions, shared: int = 0
    ) -> None:
        """Launches clear_facts for no cloud, under the limits of the kernel `name`."""
        sizes = (_sizes(grid), _sizes(block), ctypes.c_int64(shared))
        self._call("launch_idle_kernel", name.encode(), *sizes)

    def forward(
        self,
        points: Tensor,
        metric: str = "euclidean",
        lengths: Sequence[int] | None = None,
        processors: int = 4,
        shared: int = SHARED,
        small: int = 512,
        stored: int = 8192,
        fused: int = 100,
    ) -> Outcome:
        """points (B, N, D). Clouds of up to `small` points have a block each, those of up to
        `fused` points have no kernels for their keys; keys of up to `stored` points are stored."""
        points = points.contiguous()
        batch, n, dim = points.shape
        kind = torch.float64 if points.dtype is torch.float64 else torch.float32
        out = _junk(batch, n, kind)
        valid = _lengths(lengths)
        self._call(
            "forward",
            DTYPES[points.dtype],
            METRICS[metric],
            *map(ctypes.c_int64, (batch, n, dim)),
            *map(_pointer, (points, valid, *out)),
            processors,
            *map(ctypes.c_int64, (shared, small, stored, fused)),
        )
        return out

    def from_distances(
        self,
        distances: Tensor,
        lengths: Sequence[int] | None = None,
        tolerance: float = 1e-5,
        shared: int = SHARED,
        small: int = 512,
    ) -> Outcome:
        """distances (B, N, N)."""
        distances = distances.contiguous()
        batch, n, _ = distances.shape
        out = _junk(batch, n, distances.dtype)
        valid = _lengths(lengths)
        self._call(
            "from_distances",
            DTYPES[distances.dtype],
            *map(ctypes.c_int64, (batch, n)),
            *map(_pointer, (distances, valid)),
            ctypes.c_double(tolerance),
            *map(_pointer, out),
            *map(ctypes.c_int64, (shared, small)),
        )
        return out

    def backward(
        self,
        grad: Tensor,
        points: Tensor,
        deaths: Tensor,
        edges: Tensor,
        metric: str,
        small: int = 512,
    ) -> Tensor:
        """The gradient at points (B, N, D). In clouds of more than `small` points edges are listed
        by vertex first."""
        points = points.contiguous()
        out = torch.full_like(points, 7.5)
        self._call(
            "backward",
            DTYPES[points.dtype],
            METRICS[metric],
            *map(ctypes.c_int64, points.shape),
            *map(_pointer, (grad.contiguous(), points, deaths, edges, out)),
            ctypes.c_int64(small),
        )
        return out
