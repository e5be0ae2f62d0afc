"""All CUDA kernels on small clouds, held to the CPU core: a map of what passes; see gpu_check.sh.

Run as ``python -m tsloss_fast.benchmarks.gpu_small``; ``--list`` names the cases, and ``--case``
runs some of them in this process, as a sanitizer or a debugger needs it. Otherwise another process
runs all of them, and after a CUDA error a new one those that are left. No kernel but ours writes
what ours read, so that a sanitizer may look at ours alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tsloss_fast import h0_persistence, h0_persistence_from_distances

from .gpu.__main__ import seconds
from .gpu.supervision import about, in_processes
from .suite import replace
from .worker import assignment

# Batch, points and dimension, and the path that the kernels take with the 132 multiprocessors and
# 227 KB of shared memory of an H100 or H200. If there are more clouds than multiprocessors, each
# has one block; else coordinates are cut into slices, whose sums may take a kernel of their own.
PATHS = {
    (2, 33, 30): "one block, one chunk",
    (200, 9, 131): "one block, unaligned rows",
    (200, 9, 136): "one block, aligned rows",
    (2, 20, 600): "slices",
    (2, 99, 2048): "slices, added",
    (2, 129, 5): "stored keys in shared memory",
    (2, 260, 3): "stored keys in global memory",
    (2, 600, 3): "forest of stored keys",
}
LARGE = (1, 8300, 2)
MATRICES = {(2, 70, 70): "matrix, one block", (2, 600, 600): "matrix, forest"}
ALL_PATHS = {**PATHS, LARGE: "forest of computed keys", **MATRICES}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
METRICS = ("euclidean", "sqeuclidean", "cosine", "manhattan")
MATRIX = "matrix"
LATE = "NOT RUN: no time was left"


@dataclass(frozen=True)
class Case:
    """A batch of clouds, or of distance matrices (metric "matrix"). Every third case is padded."""

    number: int
    dtype: torch.dtype
    metric: str
    shape: tuple[int, int, int]

    @property
    def kind(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {self.metric}"

    @property
    def name(self) -> str:
        return f"{self.kind.replace(' ', '-')}-{'x'.join(map(str, self.shape))}"

    def inputs(self) -> tuple[Tensor, Tensor | None]:
        """The points or distances, and the lengths of the clouds."""
        batch, n, dim = self.shape
        generator = torch.Generator().manual_seed(self.number)
        lengths = torch.tensor(([n, n // 2] * batch)[:batch]) if self.number % 3 == 0 else None
        if self.metric != MATRIX:
            return torch.randn(batch, n, dim, generator=generator).to(self.dtype), lengths
        x = torch.randn(batch, n, 3, generator=generator).to(self.dtype)
        return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist"), lengths


def _cases() -> dict[str, Case]:
    """Every path first in single precision, so that little time tells much."""
    shapes = [(d, m, shape) for d in DTYPES for m in METRICS for shape in PATHS]
    matrices = [(dtype, MATRIX, shape) for dtype in DTYPES[:2] for shape in MATRICES]
    first = len(PATHS)
    all_of = [*shapes[:first], *matrices, *shapes[first:], (torch.float32, METRICS[0], LARGE)]
    return {case.name: case for case in (Case(k, *rest) for k, rest in enumerate(all_of))}


CASES = _cases()


class Bars(NamedTuple):
    deaths: Tensor
    edges: Tensor
    gradient: Tensor


def compute(case: Case, device: str) -> Bars:
    """The bars of a case and the gradient of a weighted sum of them, on the CPU."""
    points, lengths = case.inputs()
    weights = torch.linspace(1, 2, max(points.shape[1] - 1, 0))
    kind = torch.float64 if case.dtype is torch.float64 else torch.float32
    given = weights.to(kind).repeat(len(points), 1).to(device)
    x = points.to(device).requires_grad_()
    there = None if lengths is None else lengths.to(device)
    if case.metric == MATRIX:
        deaths, edges = h0_persistence_from_distances(x, lengths=there)
    else:
        deaths, edges = h0_persistence(x, case.metric, there)
    (gradient,) = torch.autograd.grad(deaths, x, given)
    return Bars(deaths.detach().cpu(), edges.cpu(), gradient.cpu())


def difference(got: Bars, wanted: Bars) -> str:
    """The first bar that differs, or else the first coordinate of the gradient; empty if none."""
    wrong = (got.edges != wanted.edges).any(-1) | (got.deaths != wanted.deaths)
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        return (
            f"BARS: {int(wrong.any(1).sum())} of {len(wrong)} clouds differ, first cloud {at[0]} "
            f"in bar {at[1]}: edge {tuple(got.edges[at].tolist())} of length "
            f"{got.deaths[at].item()!r}, where the CPU core has edge "
            f"{tuple(wanted.edges[at].tolist())} of length {wanted.deaths[at].item()!r}"
        )
    tolerance = 32 * torch.finfo(wanted.gradient.dtype).eps * wanted.gradient.abs().max().item()
    error = (got.gradient.double() - wanted.gradient.double()).abs()
    wrong = ~(error <= tolerance)
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        return (
            f"GRADIENT: {int(wrong.flatten(1).any(1).sum())} of {len(wrong)} clouds differ, first "
            f"cloud {at[0]} at {at[1:]}: {got.gradient[at].item()!r}, where the CPU core has "
            f"{wanted.gradient[at].item()!r}; off by {error.max().item():.3g} at most, of "
            f"{tolerance:.3g} allowed"
        )
    return ""


def compare(case: Case, device: str) -> str:
    return difference(compute(case, device), compute(case, "cpu"))


def worker() -> None:
    """A process that runs cases."""
    task, tell = assignment()
    tell(machine=about())
    for name in task["parts"]:
        tell(case=name, found=compare(CASES[name], task["device"]))
        tell(done=name)


def in_this_process(names: Sequence[str], device: str, end: float) -> Iterator[tuple[str, str]]:
    for name in names:
        yield name, LATE if time.monotonic() >= end else compare(CASES[name], device)


def in_others(
    names: Sequence[str], device: str, end: float, entry: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    def shape(name: str) -> str:
        return str(CASES[name].shape)

    for event in in_processes(names, {"device": device}, entry, end, kind=shape):
        if "case" in event:
            yield event["case"], event["found"]
        elif "lost" in event:
            ending = event["ending"]
            yield event["lost"], f"ERROR: its process {ending}" if ending else LATE


def table(found: dict[str, str]) -> str:
    """The map: what was found of every type and metric on every path."""
    cases = [CASES[name] for name in found]
    shapes = [shape for shape in ALL_PATHS if any(case.shape == shape for case in cases)]
    names = [f"{'×'.join(map(str, shape))} {ALL_PATHS[shape]}" for shape in shapes]
    lines = [f"| type and metric | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for kind in dict.fromkeys(case.kind for case in cases):
        cells = {c.shape: found[c.name].partition(":")[0] or "ok" for c in cases if c.kind == kind}
        lines.append(f"| {kind} | {' | '.join(cells.get(shape, '') for shape in shapes)} |")
    lines.append("")
    for name, text in found.items():
        if text not in ("", LATE):
            lines.append(f"- {name} ({ALL_PATHS[CASES[name].shape]}): {text}")
    return "\n".join(lines) + "\n"


ENTRY = ("tsloss_fast.benchmarks.gpu_small", "worker")  # not __name__, which may be __main__


def main(argv: Sequence[str] | None = None, entry: tuple[str, str] = ENTRY) -> int:
    """Status 0: all is what the CPU core gives; 1: something is not; 3: some could not run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", default="cuda", help="of torch (cuda); cpu rehearses")
    parser.add_argument("--case", action="append", default=[], help="a name or number of --list")
    parser.add_argument("--one-process", action="store_true", help="also for all cases")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--output", type=Path, help="a Markdown file for the map")
    parser.add_argument("--seconds", type=seconds, default=300.0, help="for all of it (300)")
    arguments = parser.parse_args(argv)
    if arguments.list:
        for case in CASES.values():
            print(f"{case.number} {case.name}: {ALL_PATHS[case.shape]}")
        return 0
    names = [
        list(CASES)[int(c)] if c.isdecimal() and int(c) < len(CASES) else c for c in arguments.case
    ]
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"{', '.join(unknown)}: no such case; --list names them")
    end = time.monotonic() + arguments.seconds
    names = names or list(CASES)
    if arguments.case or arguments.one_process:
        results = in_this_process(names, arguments.device, end)
    else:
        results = in_others(names, arguments.device, end, entry)
    found = {}
    for name, text in results:
        found[name] = text
        if text != LATE:
            print(f"{name}: {text or 'ok'}", flush=True)
        if arguments.output is not None:
            replace(arguments.output, table(found).encode())
    late = [name for name, text in found.items() if text == LATE]
    bad = [name for name, text in found.items() if text not in ("", LATE)]
    print(f"\n{table(found)}")
    if late:
        print(f"{LATE} for {len(late)} cases: {' '.join(late)}")
    print(
        f"{len(found) - len(late) - len(bad)} of {len(names)} cases give what the CPU core gives; "
        f"{len(bad)} failed, {len(late)} were not run"
    )
    return 1 if bad else 3 if late else 0


if __name__ == "__main__":
    sys.exit(main())
