"""What is measured, part by part: the table, then kernels of each work and the largest tree."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tsloss_fast import TSLoss

from .clock import (
    LARGE,
    MANY,
    MANY_HALF,
    PROMPT,
    PROMPT_BOTH,
    TINY,
    TINY_BOTH,
    TOKENS,
    VOCABULARY,
    WORKS,
    Clock,
    Work,
)
from .rows import Kernels, Row


def _gudhi_seconds(points: Tensor) -> float | None:
    """One call on the host, of the distances and the barcode; None without GUDHI."""
    try:
        import gudhi
    except ImportError:
        return None
    array = points.double().cpu().numpy()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        tree = gudhi.RipsComplex(points=array).create_simplex_tree(max_dimension=1)
        tree.compute_persistence()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _tiny(clock: Clock) -> Iterator[Row]:
    x = clock.cloud(TINY)
    yield from clock.wrong(TINY, x)
    forward, both, one = clock.call(TINY, x), clock.call(TINY_BOTH, x), x.new_zeros(1)
    yield clock.against(
        Row(f"{TINY.name}, graph replay", baseline="a graph of one tiny kernel", goal=2.5),
        forward,
        lambda: one.add_(1),
    )
    yield Row(f"{TINY.name}, one of 20 in a graph", clock.replayed(forward, 20))
    yield Row(f"{TINY.name}, eager", clock.eager(forward))
    yield Row(f"{TINY.name}, host until it is queued", clock.queued(forward))
    yield Row(f"{TINY_BOTH.name}, graph replay", clock.replayed(both))
    yield Row(f"{TINY_BOTH.name}, eager", clock.eager(both))
    yield Row(f"{TINY_BOTH.name}, host until it is queued", clock.queued(both))
    loss, points = TSLoss().to(clock.device), x.detach().requires_grad_()

    def step() -> object:
        return torch.autograd.grad(loss(points), points)

    yield Row(f"{TINY_BOTH.name} of TSLoss, eager", clock.eager(step))


def _prompt(clock: Clock) -> Iterator[Row]:
    x = clock.cloud(PROMPT)
    yield from clock.wrong(PROMPT, x)
    both = clock.call(PROMPT_BOTH, x)
    in_graph = clock.replayed(both)
    yield Row(f"{PROMPT_BOTH.name}, graph replay", in_graph, goal=25e-6)
    yield Row(f"{PROMPT_BOTH.name}, eager", clock.eager(both), goal=80e-6)
    yield Row(f"{PROMPT.name}, graph replay", clock.replayed(clock.call(PROMPT, x)))
    host = _gudhi_seconds(x[0])
    yield Row(f"{PROMPT_BOTH.name}, graph replay", in_graph, "GUDHI on the host, forward", host,
              1 / 500, reason="" if host else "GUDHI is not installed")  # fmt: skip


def _many(clock: Clock) -> Iterator[Row]:
    x = clock.cloud(MANY)
    yield from clock.wrong(MANY, x)
    single = clock.against(
        Row(MANY.name, baseline="x.sum(), one read", goal=1.3),
        clock.call(MANY, x),
        lambda: x.sum(),
    )
    yield single
    half = x.to(MANY_HALF.dtype)
    yield from clock.wrong(MANY_HALF, half)
    yield Row(MANY_HALF.name, clock.replayed(clock.call(MANY_HALF, half)), "the same, float32",
              single.measured, 0.65)  # fmt: skip


def _product(work: Work, dtype: torch.dtype, goal: float) -> Callable[[Clock], Iterator[Row]]:
    """Against the product of the points with themselves."""

    def rows(clock: Clock) -> Iterator[Row]:
        x = clock.cloud(work)
        if work is not VOCABULARY:  # the CPU takes long: `_vocabulary_edges`
            yield from clock.wrong(work, x)
        y = x.to(dtype)
        single = dtype is torch.float32
        name = "torch.mm" if len(x) == 1 else "torch.bmm"
        kind = "float32 without TF32" if single else "bfloat16"
        product = (lambda: torch.mm(y[0], y[0].mT)) if len(x) == 1 else lambda: torch.bmm(y, y.mT)
        row = Row(work.name, baseline=f"{name}(X, Xᵀ), {kind}", goal=goal)
        yield clock.against(row, clock.call(work, x), product)

    return rows


def _synchronisations(clock: Clock) -> Iterator[Row]:
    works = (TINY_BOTH, PROMPT_BOTH, MANY_HALF, TOKENS, LARGE)
    count = clock.synchronisations([clock.call(work) for work in works])
    shapes = ", ".join(str(work.shape) for work in works)
    yield Row(f"host synchronisations of {shapes}", count, goal=0, unit="waits")


def _vocabulary_edges(clock: Clock) -> Iterator[Row]:
    found = list(clock.wrong(VOCABULARY, clock.cloud(VOCABULARY)))
    yield from found
    if not found:
        yield Row(f"{VOCABULARY.name}, clouds with other edges than the CPU core's", 0, goal=0,
                  unit="clouds")  # fmt: skip


def _kernels_of(work: Work) -> Callable[[Clock], Iterator[Row | Kernels]]:
    def found(clock: Clock) -> Iterator[Row | Kernels]:
        kernels = clock.kernels(work)
        yield kernels
        if work in (TINY, TINY_BOTH):
            label = f"{work.name}, kernels, copies and fills"
            yield Row(label, kernels.launches, unit="launches")

    return found


Part = Callable[[Clock], Iterator[Any]]
TABLE: dict[str, Part] = {
    TINY.name: _tiny,
    PROMPT.name: _prompt,
    MANY.name: _many,
    TOKENS.name: _product(TOKENS, torch.float32, 1.0),
    LARGE.name: _product(LARGE, torch.float32, 0.4),
    "host synchronisations": _synchronisations,
    VOCABULARY.name: _product(VOCABULARY, torch.bfloat16, 2.0),
}
PROFILE: dict[str, Part] = {f"kernels of {work.name}": _kernels_of(work) for work in WORKS}
LAST: dict[str, Part] = {f"edges of {VOCABULARY.name}": _vocabulary_edges}
# A process each: a profiler may slow down what comes after it.
PARTS: tuple[dict[str, Part], ...] = (TABLE, PROFILE, LAST)
