"""One cloud over many processes: measured on this machine, and modelled for more.

Run as ``python -m tsloss_fast.benchmarks.scaling``. Three parts:

- measured: processes over gloo on this machine's cores, one thread each;
- simulated: many ranks as threads of one process, whose messages are counted and whose processor
  times are taken one by one, beside what the model says of the same;
- modelled: a million points of 4,096 coordinates on 8, 64 and 512 devices, from a rate per device
  and stated bandwidths.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import tsloss_fast
from tsloss_fast import _core
from tsloss_fast._terminal import table_lines
from tsloss_fast.doctor import machine

from ..measure import load_average
from ..report import duration
from ..suite import print_and_write
from .measure import gaussian, measure_processes, measure_rates, median_seconds, simulate
from .model import ASSUMED_PART, H100, Model, modelled, size_text

_DIM = 768


def _lines(options: argparse.Namespace) -> Iterator[str]:
    torch.set_num_threads(1)
    n, d = options.points, _DIM
    load = load_average()
    yield "# One cloud over many processes\n"
    yield (
        f"`python -m tsloss_fast.benchmarks.scaling`: {machine()['processor']}, "
        f"{_core.isa()}, torch {torch.__version__}, load {load:.2f} before. Gaussian "
        f"points, float32, blocks of 64 MB, one thread a process; medians of {options.repeats}.\n"
    )
    yield "## Measured\n"
    whole = gaussian(n, d)
    alone = median_seconds(lambda: tsloss_fast.h0_persistence(whole), options.repeats)
    rows = [["`tsloss_fast.h0_persistence`", "1", duration(alone), "1.00"]]
    with tempfile.TemporaryDirectory() as folder:
        for size in (1, 2):
            seconds = measure_processes(size, n, d, options.repeats, Path(folder))
            rows.append(
                [
                    "`distributed.h0_persistence`",
                    str(size),
                    duration(seconds),
                    f"{alone / seconds:.2f}",
                ]
            )
    yield f"{n:,} points of {d} coordinates, over gloo on this machine's cores.\n"
    yield from table_lines(["call", "processes", "time", "speed beside one process alone"], rows)
    yield ""

    yield "## Simulated\n"
    yield (
        "Ranks as threads of one process: the bytes that the busiest sender sent in the ring are "
        "counted, the processor time is that of the mean rank. The model has the rates of one "
        "thread, measured just before: "
    )
    rates = measure_rates(options.block, d, options.repeats)
    yield (
        f"{1e-9 / rates.pair:.0f} G multiply-adds a second in the filter (what is kept and "
        f"gets its exact key included), {1e-9 / rates.near:.0f} G for the sample, "
        f"{1e9 * rates.encode:.2f} ns a coordinate to encode, {1e9 * rates.load:.2f} ns to "
        "prepare, "
        f"{1e9 * rates.edge:.0f} ns an edge in Kruskal's algorithm.\n"
    )
    rows = []
    for size in options.ranks:
        mean, sent = simulate(size, options.simulated, d)
        model = Model(options.simulated, d, size)
        expected = sum(model.work_seconds(rates).values())
        counted = sent.get("ring", 0)
        rows.append(
            [
                str(size),
                duration(mean),
                duration(expected),
                f"{mean / expected:.2f}",
                size_text(counted),
                size_text(model.ring_bytes()),
                size_text(sum(sent.values()) - counted),
            ]
        )
    yield f"{options.simulated:,} points of {d} coordinates.\n"
    header = [
        "ranks",
        "work of a rank",
        "model",
        "ratio",
        "ring, counted",
        "ring, model",
        "all else, counted",
    ]
    yield from table_lines(header, rows)
    yield ""

    yield "## Modelled\n"
    points, dim = 10**6, 4096
    header = [
        "ranks",
        "sent in the ring",
        "sent in the trees, at most",
        "work",
        "ring",
        "Kruskal and trees",
        "time",
    ]
    part = f"{100 * ASSUMED_PART:.0f} %"
    yield f"{points:,} points of {dim:,} coordinates, one call. Time: the longer of work and ring,"
    yield "which run side by side, and what comes after. Nothing here was run.\n"
    yield (
        f"With the float32 rate of an {H100.name.split(',')[0]} ({H100.pair:.2e} multiply-adds a "
        f"second), of which {part} is assumed, and {part} of NVLink (450 GB/s one way, to 8 ranks) "
        "or of 400 Gb/s a device; Kruskal's algorithm on the host:\n"
    )
    yield from table_lines(header, [modelled(points, dim, p, rates, H100) for p in (8, 64, 512)])
    yield ""
    yield "With one thread of this machine's processor a rank, and the same links:\n"
    yield from table_lines(header, [modelled(points, dim, p, rates, None) for p in (8, 64, 512)])
    yield ""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tsloss_fast.benchmarks.scaling",
        description="Measure one cloud over several processes, and model it for more.",
    )
    parser.add_argument("--points", type=int, default=16384, help="of the measured cloud (16384)")
    parser.add_argument("--simulated", type=int, default=12288, help="of the simulated (12288)")
    parser.add_argument("--block", type=int, default=4096, help="points a side for rates (4096)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="simulated")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement (3)")
    parser.add_argument("--output", type=Path, help="Markdown file for the tables")
    options = parser.parse_args(argv)
    if min(options.points, options.simulated, options.block, options.repeats, *options.ranks) < 1:
        parser.error("expected numbers above 0")
    print_and_write(parser, _lines(options), options.output, "scaling.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
