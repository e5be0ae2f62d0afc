"""How an implementation is asked: one small adapter each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Adapter", "Answer", "NotOffered", "gradient_of"]


class NotOffered(Exception):
    """The implementation does not take such an input, and says so itself, or has no such thing.

    An adapter raises it for one input of a check, which is then left out of the verdict and named.
    """


@dataclass(frozen=True)
class Answer:
    """Deaths (N-1,) of the finite bars, in any order, and the critical edges (N-1, 2) if there are
    any, in the order of the deaths. Anything that NumPy takes."""

    deaths: Any
    edges: Any = None

    def sorted(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
        """Ascending; infinite bars are left out."""
        deaths = np.asarray(self.deaths)
        keep = ~np.isposinf(deaths)
        order = np.argsort(deaths[keep], kind="stable")
        edges = None if self.edges is None else np.asarray(self.edges).reshape(-1, 2)[keep][order]
        return deaths[keep][order], edges


@dataclass(frozen=True)
class Adapter:
    """An implementation.

    ``points``: of a CPU tensor (N, D) in any floating type. ``matrix``: of distances (N, N),
    float64. ``gradient``: of sum(weights * deaths), deaths ascending, with respect to the points
    (N, D); left out, it is that of the lengths of the critical edges, as users write it.
    ``batch``: of (B, N, D), a list of answers. What an implementation does not offer is left out,
    and for a single input that it does not take, the function raises ``NotOffered``.
    ``packages``: modules that have to be there, with the names of their distributions.
    """

    name: str
    packages: dict[str, str]
    points: Callable[[Tensor], Answer]
    matrix: Callable[[np.ndarray[Any, Any]], Answer] | None = None
    gradient: Callable[[Tensor, Tensor], Tensor] | None = None
    batch: Callable[[Tensor], list[Answer]] | None = None

    @property
    def missing(self) -> list[str]:
        return [name for module, name in self.packages.items() if util.find_spec(module) is None]

    @property
    def versions(self) -> list[str]:
        return [f"{name} {metadata.version(name)}" for name in self.packages.values()]


def gradient_of(adapter: Adapter, points: Tensor, weights: Tensor) -> Tensor | None:
    """None where there are neither gradients nor edges."""
    if adapter.gradient is not None:
        return adapter.gradient(points, weights)
    _, edges = adapter.points(points).sorted()
    if edges is None:
        return None
    x = points.clone().requires_grad_()
    i, j = torch.as_tensor(np.array(edges, np.int64)).T
    lengths = torch.linalg.vector_norm(x[i] - x[j], dim=-1)
    (gradient,) = torch.autograd.grad((lengths * weights).sum(), x)
    return gradient
