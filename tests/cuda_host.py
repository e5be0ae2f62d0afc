"""The CUDA kernels on the host executor (csrc/simt), called from Python; and the programs that the
sanitizers watch. Needs g++ and the source tree."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tests/native/simt_kernels.cpp"
METRICS = {"euclidean": 0, "sqeuclidean": 1, "cosine": 2, "manhattan": 3}
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
ORDERS = {"forward": 0, "reverse": 1, "lifo": 2, "random": 3}
SHARED = 227 << 10  # bytes of a block of an H100
HAVE_SOURCES = bool(shutil.which("g++")) and (ROOT / "csrc/simt").is_dir()

_COMMON = ["g++", "-std=gnu++17", "-g", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"]
_ADDRESS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# What the kernels are compiled with, and what the executor.
_KINDS: dict[str, tuple[list[str], list[str]]] = {
    "library": (["-O1", "-fPIC"], ["-O2", "-fPIC"]),
    "plain": (["-O1", "-DSIMT_PROGRAM"], ["-O2"]),
    "address": (["-O1", "-DSIMT_PROGRAM", *_ADDRESS], ["-O1", *_ADDRESS]),
    "thread": (["-O1", "-DSIMT_PROGRAM", "-fsanitize=thread"], ["-O1", "-DSIMT_TSAN"]),
    "coverage": (["-O0", "-DSIMT_PROGRAM", "--coverage"], ["-O2"]),
}


def build(folder: Path, kind: str) -> Path:
    """A library for ctypes ("library"), or a program of one of the other kinds."""
    kernels, executor = _KINDS[kind]
    include = f"-I{ROOT / 'csrc'}"

    def compile_one(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        flags = kernels if source == SOURCE else executor
        command = [*_COMMON, include, *flags, "-c", str(source), "-o", target]
        subprocess.run(command, check=True, cwd=folder)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, [SOURCE, *sorted((ROOT / "csrc/simt").glob("*.cpp"))]))
    target = folder / kind
    link = ["-shared"] if kind == "library" else [f for f in kernels if f.startswith("-fsan")]
    link += ["--coverage"] if kind == "coverage" else []
    subprocess.run(["g++", *link, *objects, "-o", str(target)], check=True)
    return target


class Outcome(NamedTuple):
    """What the forward kernels write: `findings` (B, 3) holds a problem and two points."""

    deaths: Tensor
    edges: Tensor
    findings: Tensor


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

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, name)(*arguments):
            raise RuntimeError(self._library.last_message().decode())

    def call_addresses(self, name: str, number: int, metric: int | None, *rest: Any) -> None:
        """A function of the library; whole numbers are addresses, and in tuples int64."""
        arguments: list[object] = [number] if metric is None else [number, metric]
        for value in rest:
            if isinstance(value, tuple):
                arguments += map(ctypes.c_int64, value)
            elif isinstance(value, float):
                arguments.append(ctypes.c_double(value))
            else:
                arguments.append(ctypes.c_void_p(value or None))
        self._call(name, *arguments)

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
