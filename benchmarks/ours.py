"""tsloss_fast itself, through its public Python call, and the list of what is run for each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .baselines import FORWARD, LOW, MATRIX, exact_matrix
from .differentiable import BACKWARD, backward_of, step, step_value, steps, through_edges
from .implementation import Array, Call, Implementation
from .workloads import KINDS, Workload


def _read(result: Any) -> dict[str, Array]:
    return {"deaths": result.deaths.detach().double().numpy()}


def _ours(about: str, prepare: Callable[[Tensor, int], Call]) -> Implementation:
    return Implementation("tsloss_fast", about, prepare, ("tsloss_fast",), role="ours")


def forward(points: Tensor, threads: int) -> Call:
    from tsloss_fast import h0_persistence

    return Call(lambda: h0_persistence(points), _read)


def forward_on(threads: int) -> Callable[[Tensor, int], Call]:
    """The forward pass on a thread count of its own; setting it costs about a microsecond."""

    def prepare(points: Tensor, _: int) -> Call:
        from tsloss_fast import h0_persistence

        def run() -> Any:
            torch.set_num_threads(threads)
            return h0_persistence(points)

        return Call(run, _read)

    return prepare


def from_matrix(points: Tensor, threads: int) -> Call:
    from tsloss_fast import h0_persistence_from_distances

    matrix = torch.from_numpy(exact_matrix(points))
    return Call(lambda: h0_persistence_from_distances(matrix), _read)


def backward(points: Tensor, threads: int) -> Call:
    from tsloss_fast import h0_persistence

    points = points.clone().requires_grad_()
    return backward_of(h0_persistence(points).deaths, points)


def sum_of_deaths(points: Tensor, threads: int) -> Call:
    from tsloss_fast import h0_persistence

    return step("deaths", lambda _, leaf: torch.sum(h0_persistence(leaf).deaths), points)


def loss(points: Tensor, threads: int) -> Call:
    from tsloss_fast import TSLoss

    criterion = TSLoss()

    def value(_: Tensor, leaf: Tensor) -> Tensor:
        total: Tensor = criterion(leaf)
        return total

    return step("loss", value, points)


def pair(points: Tensor, threads: int) -> Call:
    from tsloss_fast import h0_persistence

    way = through_edges(lambda cloud: h0_persistence(cloud).edges)
    return step("pair", lambda x, leaf: step_value("pair", x, leaf, way), points)


_FORWARD = _ours("h0_persistence(points)", forward)
_ONE_THREAD = Implementation(
    "tsloss_fast, one thread", "the same on one thread", forward_on(1), role="yardstick"
)
_SUM = _ours("h0_persistence(points).deaths.sum().backward()", sum_of_deaths)
_LOSS = _ours("TSLoss()(points).backward()", loss)
_PAIR = _ours("h0_persistence of both, edge lengths and the loss in torch", pair)

IMPLEMENTATIONS: dict[str, tuple[Implementation, ...]] = {
    **dict.fromkeys(KINDS, (_FORWARD, *FORWARD)),
    "matrix": (_ours("h0_persistence_from_distances(matrix)", from_matrix), *MATRIX),
    "threads": (_ours("h0_persistence(points) on two threads", forward_on(2)), _ONE_THREAD),
    "backward": (_ours("backward of h0_persistence(points).deaths", backward), *BACKWARD),
    "deaths": (_SUM, *steps("deaths")),
    "loss": (_LOSS, *steps("loss")),
    "pair": (_PAIR, *steps("pair")),
}
"""What is measured for each kind of workload, ours first."""


def implementations(workload: Workload) -> tuple[Implementation, ...]:
    """What is measured on a workload: in low dimensions only what needs no distance matrix to start
    with, or is there to show what one costs."""
    return (_FORWARD, *LOW) if workload.is_low else IMPLEMENTATIONS[workload.kind]
