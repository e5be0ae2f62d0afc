"""The clouds that the large path likes least: the path that is chosen, against the dense one.

Run as ``python -m tsloss_fast.benchmarks.worst``; one thread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tsloss_fast import _core, h0_persistence

from .measure import interleave
from .report import duration
from .suite import print_and_write

_AUTO, _SMALL, _PACKED = 0, 1, 2
_TILE_DIMENSION = 128  # kTileDimension of csrc/cpu/tuning.h


def _clusters(count: int, width: float) -> Callable[[int, int, torch.Generator], Tensor]:
    def cloud(n: int, d: int, g: torch.Generator) -> Tensor:
        centres = 3 * torch.randn(count, d, generator=g)
        return centres[torch.randint(count, (n,), generator=g)] + width * torch.randn(
            n, d, generator=g
        )

    return cloud


def _simplex(n: int, d: int, g: torch.Generator) -> Tensor:
    rotation: Tensor = torch.linalg.qr(torch.randn(n, n, generator=g))[0]
    return rotation


def _tails(n: int, d: int, g: torch.Generator) -> Tensor:
    ratio = torch.randn(n, d, generator=g) / torch.randn(n, d, generator=g)
    return ratio.clamp(-1e9, 1e9)


CLOUDS: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "Gaussian": lambda n, d, g: torch.randn(n, d, generator=g),
    "5 clusters of width 1e-3": _clusters(5, 1e-3),
    "100 clusters of width 1e-3": _clusters(100, 1e-3),
    "2 clusters of width 1e-5": _clusters(2, 1e-5),
    "Cauchy tails": _tails,
    "one huge coordinate a row": lambda n, d, g: (
        torch.randn(n, d, generator=g) + 1e4 * torch.eye(n, d)
    ),
    "random signs": lambda n, d, g: torch.randn(n, d, generator=g).sign(),
    "rank 3": lambda n, d, g: torch.randn(n, 3, generator=g) @ torch.randn(3, d, generator=g),
    "unit vectors (N × N)": lambda n, d, g: torch.eye(n),
    "rotated simplex (N × N)": _simplex,
}


def measure(n: int, d: int, seconds: float) -> Iterator[str]:
    """Markdown lines: the time of both paths on each cloud of n points in d dimensions."""
    dense = _SMALL if d >= _TILE_DIMENSION else _PACKED
    yield f"## {n} points in {d} dimensions\n"
    yield "| cloud | dense path | chosen path | chosen / dense |"
    yield "|---|---:|---:|---:|"
    for name, make in CLOUDS.items():
        points = make(n, d, torch.Generator().manual_seed(0))
        if points.shape[1] > 2048:
            continue
        calls = {}
        try:
            for path in (dense, _AUTO):

                def run(path: int = path, points: Tensor = points) -> object:
                    _core.set_overrides(path)
                    return h0_persistence(points)

                run()
                calls[str(path)] = (run, 1.0)
            found = interleave(calls, seconds)
        finally:
            _core.set_overrides()
        slow, fast = (min(found[str(path)].seconds) for path in (dense, _AUTO))
        yield f"| {name} | {duration(slow)} | {duration(fast)} | {fast / slow:.2f} |"
    yield ""


def _shape(text: str) -> tuple[int, int]:
    try:
        n, d = (int(part) for part in text.split("x"))
    except ValueError:
        n, d = 0, 0
    if n < 2 or d < 1:
        raise argparse.ArgumentTypeError(
            f"expected POINTSxDIMENSION such as 2048x768, with 2 points or more, got {text!r}"
        )
    return n, d


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tsloss_fast.benchmarks.worst",
        description="Measure the clouds that the large path likes least.",
    )
    parser.add_argument(
        "--shapes",
        type=_shape,
        nargs="+",
        metavar="NxD",
        default=[(1024, 96), (1024, 768), (1536, 48), (2048, 16), (2048, 768), (4096, 96)],
        help="points and dimensions of the clouds",
    )
    parser.add_argument("--seconds", type=float, default=0.3, help="time for each path (0.3)")
    parser.add_argument("--output", type=Path, help="Markdown file for the tables")
    options = parser.parse_args(argv)
    if not options.seconds > 0:
        parser.error(f"expected a positive time, got --seconds {options.seconds}")

    def lines() -> Iterator[str]:
        torch.set_num_threads(1)
        yield "# Worst cases: the path that is chosen against the dense one\n"
        for n, d in options.shapes:
            yield from measure(n, d, options.seconds)

    print_and_write(parser, lines(), options.output, "worst.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
