"""One warmed call of each work that has a goal, for a profiler.

Run as ``python -m tsloss_fast.benchmarks.gpu.prof`` by ``ncu --clock-control none
--profile-from-start off --nvtx``, which sees the kernels of these calls alone, each work in a range
of its name. Names of rows (``1x100x4096``) choose some, as for the table.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence

import torch

from .clock import LARGE, MANY, MANY_HALF, PROMPT_BOTH, TINY, TOKENS, VOCABULARY, Clock
from .rows import select

WORKS = {w.name: w for w in (TINY, PROMPT_BOTH, MANY, MANY_HALF, TOKENS, LARGE, VOCABULARY)}


@contextlib.contextmanager
def _profiled(name: str) -> Iterator[None]:
    torch.cuda.profiler.start()
    torch.cuda.nvtx.range_push(name)
    yield
    torch.cuda.nvtx.range_pop()
    torch.cuda.profiler.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0: all were called; 3: for some no time was left."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="what is called (all)")
    parser.add_argument("--rehearse", action="store_true", help="small clouds on the CPU")
    parser.add_argument("--seconds", type=float, default=300.0, help="no call begins later (300)")
    arguments = parser.parse_args(argv)
    end = time.monotonic() + arguments.seconds
    try:
        names = select(arguments.rows, WORKS)
    except ValueError as problem:
        parser.error(str(problem))
    clock = Clock(arguments.rehearse)
    called = 0
    for name in names:
        if time.monotonic() >= end:
            print(f"NOT RUN: {name}: no time was left", flush=True)
            continue
        call = clock.call(WORKS[name])
        call()
        clock.wait()
        with contextlib.nullcontext() if arguments.rehearse else _profiled(name):
            call()
            clock.wait()
        print(name, flush=True)
        called += 1
    print(f"{called} of {len(names)} works called once", flush=True)
    return 0 if called == len(names) else 3


if __name__ == "__main__":
    sys.exit(main())
