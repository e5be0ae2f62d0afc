"""Clouds of very different sizes in one call: without padding and with it.

Run as ``python -m tsloss_fast.benchmarks.ragged``. Beside the time stands how much of the threads
was used: processor time over wall time and threads.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from tsloss_fast import _core, h0_persistence, h0_persistence_varlen
from tsloss_fast._terminal import table_head, table_row
from tsloss_fast.doctor import machine

from .measure import load_average
from .report import duration, multiple
from .suite import print_and_write


def sizes_of(batch: int, most: int, seed: int) -> list[int]:
    """From 2 to `most`, evenly in their logarithm, the largest one among them."""
    uniform = torch.rand(batch, generator=torch.Generator().manual_seed(seed))
    sizes = (2 * (most / 2) ** uniform).round().long().tolist()
    sizes[batch // 2] = most
    return sizes


def measure(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least wall time, and the share of the threads used in that call."""
    call()
    best = (float("inf"), 0.0)
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        call()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        best = min(best, (wall, processor / wall / torch.get_num_threads()))
    return best


def _row(batch: int, most: int, dim: int, threads: int, repeats: int) -> list[str]:
    torch.set_num_threads(threads)
    sizes = sizes_of(batch, most, seed=batch + most)
    points = torch.randn(sum(sizes), dim, generator=torch.Generator().manual_seed(0))
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    lengths = torch.tensor(sizes)
    padded = torch.zeros(batch, most, dim)
    for b, part in enumerate(points.split(sizes)):
        padded[b, : len(part)] = part
    ragged, used = measure(lambda: h0_persistence_varlen(points, offsets), repeats)
    with_padding, used_padded = measure(lambda: h0_persistence(padded, lengths=lengths), repeats)
    alone, _ = measure(lambda: [h0_persistence(part) for part in points.split(sizes)], repeats)
    return [
        f"{batch} × (2 to {most:,}) × {dim}",
        str(threads),
        duration(ragged),
        f"{100 * used:.0f} %",
        multiple(with_padding / ragged),
        f"{100 * used_padded:.0f} %",
        multiple(alone / ragged),
        f"{padded.numel() / points.numel():.1f}×",
    ]


def _lines(options: argparse.Namespace) -> Iterator[str]:
    yield "# Clouds of different sizes in one call\n"
    yield (
        f"`python -m tsloss_fast.benchmarks.ragged`: {machine()['processor']}, {_core.isa()}, "
        f"torch {torch.__version__}, load {load_average():.2f} before. Gaussian points, float32; "
        f"least of {options.repeats}. The others as multiples of the time without padding.\n"
    )
    header = ["clouds", "threads", "`h0_persistence_varlen`", "threads used", "padded, `lengths`"]
    header += ["threads used", "one call a cloud", "memory of the padded"]
    yield from table_head(header)
    for batch, most, dim in options.shapes:
        for threads in options.threads:
            yield table_row(_row(batch, most, dim, threads, options.repeats))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tsloss_fast.benchmarks.ragged",
        description="Measure clouds of different sizes with and without padding.",
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(1 2)")
    parser.add_argument("--repeats", type=int, default=5, help="of each call (5)")
    parser.add_argument("--quick", action="store_true", help="small clouds alone")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    options = parser.parse_args(argv)
    options.shapes = [(16, 64, 32)] if options.quick else [(64, 4096, 64), (16, 4096, 768)]
    print_and_write(parser, _lines(options), options.output, "ragged.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
