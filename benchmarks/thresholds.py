"""Where one path of the forward pass begins to beat another: the measurements behind the constants
in ``csrc/cpu/tuning.h``. Run as ``python -m tsloss_fast.benchmarks.thresholds``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tsloss_fast import _core, h0_persistence
from tsloss_fast._terminal import table_row

from .measure import interleave
from .report import duration
from .suite import print_and_write

_TUNING = Path(__file__).parents[1] / "csrc" / "cpu" / "tuning.h"
_SMALL, _PACKED, _LARGE, _SPATIAL = 1, 2, 3, 4


@dataclass(frozen=True)
class Contest:
    """Two settings of ``_core.set_overrides`` on clouds around a threshold."""

    constant: str
    first: tuple[str, dict[str, int]]
    second: tuple[str, dict[str, int]]
    shapes: tuple[tuple[int, int], ...]


CONTESTS = (
    Contest(
        "kTileDimension",
        ("packed", {"path": _PACKED}),
        ("small", {"path": _SMALL}),
        tuple((n, d) for n in (20, 64, 256) for d in (16, 32, 64, 96, 128, 192)),
    ),
    Contest(
        "kLargePointsLow",
        ("packed", {"path": _PACKED}),
        ("large", {"path": _LARGE}),
        tuple((n, d) for d in (5, 16) for n in (1024, 1536, 2048, 2560)),
    ),
    *(
        Contest(
            f"kSpatialPoints{d}",
            ("packed", {"path": _PACKED}),
            ("k-d tree", {"path": _SPATIAL}),
            tuple((n, d) for n in (384, 512, 704, 896, 1024, 1280)),
        )
        for d in (1, 2, 3, 4)
    ),
    Contest(
        "kLargePoints",
        ("packed", {"path": _PACKED}),
        ("large", {"path": _LARGE}),
        tuple((n, d) for d in (48, 64) for n in (768, 1024, 1536, 2048)),
    ),
    Contest(
        "kLargePointsHigh",
        ("small", {"path": _SMALL}),
        ("large", {"path": _LARGE}),
        tuple((n, d) for d in (96, 192, 768) for n in (512, 768, 1024, 1536)),
    ),
    Contest(
        "kCodedDimension",
        ("distances", {"path": _LARGE, "coded": 0}),
        ("codes", {"path": _LARGE, "coded": 1}),
        tuple((2048, d) for d in (8, 16, 32, 48, 64, 96)),
    ),
    Contest(
        "kSampleOneIn",
        ("one in 8", {"path": _LARGE, "sample_one_in": 8}),
        ("one in 16", {"path": _LARGE, "sample_one_in": 16}),
        ((1024, 768), (4096, 768), (4096, 128)),
    ),
    Contest(
        "kSampleOneIn",
        ("one in 4", {"path": _LARGE, "sample_one_in": 4}),
        ("one in 8", {"path": _LARGE, "sample_one_in": 8}),
        ((1024, 768), (4096, 768), (4096, 128)),
    ),
)
_QUICK = (Contest("kTileDimension", CONTESTS[0].first, CONTESTS[0].second, ((40, 16), (40, 96))),)


def measure(contests: Sequence[Contest], seconds: float) -> Iterator[str]:
    """Markdown lines: for every contest a table of both times, as ratios of one run."""
    torch.set_num_threads(1)
    yield "# Thresholds between the paths"
    for contest in contests:
        (first, _), (second, _) = contest.first, contest.second
        now = constant(contest.constant)
        value = "csrc/cpu/tuning.h is not here" if now is None else f"now {now}"
        yield f"\n**{contest.constant}** ({value}): {first} or {second}\n"
        yield f"| N × D | {first} | {second} | {second} / {first} | faster |"
        yield "|---|---:|---:|---:|---|"
        for n, d in contest.shapes:
            times = _times(contest, n, d, seconds)
            faster = min(times, key=lambda name: times[name])
            ratio = times[second] / times[first]
            cells = [f"{n} × {d}", duration(times[first]), duration(times[second])]
            yield table_row([*cells, f"{ratio:.2f}", faster])


def constant(name: str) -> int | None:
    """The value of a constant in ``csrc/cpu/tuning.h``; None without the source tree.

    Raises:
        ValueError: the source tree is here and has no such constant.
    """
    if not _TUNING.is_file():
        return None
    text = _TUNING.read_text(encoding="utf-8")
    match = re.search(rf"^constexpr int64_t {name} = (\d+);", text, re.M)
    if match is None:
        raise ValueError(f"{_TUNING} has no integer constant {name}")
    return int(match[1])


def _times(contest: Contest, n: int, d: int, seconds: float) -> dict[str, float]:
    points = torch.randn(n, d, generator=torch.Generator().manual_seed(n + d))
    calls = {}
    try:
        for name, setting in (contest.first, contest.second):

            def run(setting: dict[str, int] = setting) -> object:
                _core.set_overrides(**setting)
                return h0_persistence(points)

            run()
            calls[name] = (run, 1e-3)
        found = interleave(calls, seconds)
    finally:
        _core.set_overrides()
    return {name: min(runner.seconds) for name, runner in found.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tsloss_fast.benchmarks.thresholds",
        description="Measure where one path of the forward pass begins to beat another.",
    )
    parser.add_argument("--quick", action="store_true", help="two small clouds, to see it work")
    parser.add_argument("--seconds", type=float, default=0.2, help="time for each path (0.2)")
    parser.add_argument("--output", type=Path, help="Markdown file for the tables")
    options = parser.parse_args(argv)
    if not options.seconds > 0:
        parser.error(f"--seconds is {options.seconds}: expected a positive time")
    lines = measure(_QUICK if options.quick else CONTESTS, options.seconds)
    print_and_write(parser, lines, options.output, "thresholds.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
