"""tsloss_fast itself, through its public Python call, and the list of what is run for each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .baselines import FORWARD, MATRIX, exact_matrix
from .differentiable import BACKWARD, LOSS, death_weights
from .implementation import Array, Call, Implementation


def _deaths(result: Any) -> Array:
    return result.deaths.detach().double().numpy()  # type: ignore[no-any-return]


def forward(points: torch.Tensor, threads: int) -> Call:
    from tsloss_fast import h0_persistence

    return Call(lambda: h0_persistence(points), _deaths)


def forward_on(threads: int) -> Callable[[torch.Tensor, int], Call]:
    """The forward pass on a thread count of its own; setting it costs about a microsecond."""

    def prepare(points: torch.Tensor, _: int) -> Call:
        from tsloss_fast import h0_persistence

        def run() -> Any:
            torch.set_num_threads(threads)
            return h0_persistence(points)

        return Call(run, _deaths)

    return prepare


def from_matrix(points: torch.Tensor, threads: int) -> Call:
    from tsloss_fast import h0_persistence_from_distances

    matrix = torch.from_numpy(exact_matrix(points))
    return Call(lambda: h0_persistence_from_distances(matrix), _deaths)


def backward(points: torch.Tensor, threads: int) -> Call:
    from tsloss_fast import h0_persistence

    points = points.clone().requires_grad_()
    deaths = h0_persistence(points).deaths
    weight = death_weights(deaths.detach())

    def run() -> torch.Tensor:
        return torch.autograd.grad(deaths, points, weight, retain_graph=True)[0]

    return Call(run, gradient=lambda g: g.double().numpy())


def loss(points: torch.Tensor, threads: int) -> Call:
    from tsloss_fast import TSLoss, h0_persistence

    criterion = TSLoss()
    prompt = points.clone().requires_grad_()

    def run() -> torch.Tensor | None:
        prompt.grad = None
        criterion(prompt).backward()
        return prompt.grad

    return Call(run, lambda _: _deaths(h0_persistence(points)), lambda g: g.double().numpy())


def _ours(about: str, prepare: Callable[[torch.Tensor, int], Call]) -> Implementation:
    return Implementation(
        "tsloss_fast", about, prepare, {"tsloss_fast": "tsloss-fast"}, role="ours"
    )


_FORWARD = (_ours("h0_persistence(points)", forward), *FORWARD)
_THREADS = (
    _ours("h0_persistence(points) on two threads", forward_on(2)),
    Implementation("tsloss_fast, one thread", "the same on one thread", forward_on(1)),
)

IMPLEMENTATIONS: dict[str, tuple[Implementation, ...]] = {
    "forward": _FORWARD,
    "clusters": _FORWARD,
    "tails": _FORWARD,
    "signs": _FORWARD,
    "matrix": (_ours("h0_persistence_from_distances(matrix)", from_matrix), *MATRIX),
    "vocabulary": _FORWARD,
    "threads": _THREADS,
    "backward": (_ours("backward of h0_persistence(points).deaths", backward), *BACKWARD),
    "loss": (_ours("TSLoss()(prompt).backward()", loss), *LOSS),
}
"""What is measured for each kind of workload, ours first."""
