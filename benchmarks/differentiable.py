"""The other ways to the gradient: of given deaths to the points, and of a whole loss.

GUDHI and SciPy give critical edges and no gradient. What their users write is the length of each
critical edge in torch, ``|x_i - x_j|``, and autograd does the rest; so do the baselines here. The
loss is the exact TSLoss at its default weights, written in plain torch; torch-topological gets its
own losses, which are other functions of the same barcode.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from .baselines import distance_matrix, scipy_trees
from .implementation import Array, Call, Implementation, stack_deaths

Edges = Callable[[torch.Tensor], Array]


def edge_lengths(points: torch.Tensor, edges: Array | torch.Tensor) -> torch.Tensor:
    """The (E,) lengths of the critical edges, with a gradient to both ends."""
    i, j = torch.as_tensor(edges, dtype=torch.int64).T
    lengths: torch.Tensor = torch.linalg.vector_norm(points[i] - points[j], dim=-1)
    return lengths


def plain_loss(deaths: torch.Tensor, rho: float = 0.5) -> torch.Tensor:
    """Var(d)/m² + mean relu(1 - d/(rho·m))², connectivity and redundancy; m is the mean death."""
    mean = deaths.mean()
    redundancy = torch.relu(1 - deaths / (rho * mean)).square().mean()
    return deaths.var(correction=0) / mean.square() + redundancy


def gudhi_edges(threads: int) -> Edges:
    import gudhi

    def edges(points: torch.Tensor) -> Array:
        matrix = distance_matrix(points).astype(np.float64)
        tree = gudhi.SimplexTree.create_from_array(matrix)
        tree.compute_persistence(min_persistence=-1.0)
        return np.asarray(tree.flag_persistence_generators()[0])[:, 1:]

    return edges


def gudhi_rips_edges(threads: int) -> Edges:
    import gudhi

    def edges(points: torch.Tensor) -> Array:
        tree = gudhi.RipsComplex(points=points.double().numpy()).create_simplex_tree(1)
        tree.compute_persistence(min_persistence=-1.0)
        return np.asarray(tree.flag_persistence_generators()[0])[:, 1:]

    return edges


def giotto_edges(threads: int) -> Edges:
    from gph import ripser_parallel

    def edges(points: torch.Tensor) -> Array:
        result = ripser_parallel(
            distance_matrix(points),
            maxdim=0,
            metric="precomputed",
            n_threads=threads,
            return_generators=True,
        )
        return np.asarray(result["gens"][0])[:, 1:]

    return edges


def scipy_edges(threads: int) -> Edges:
    # The pattern of the matrix depends on N alone, so a user makes it once.
    tree_of = lru_cache(maxsize=1)(scipy_trees)

    def edges(points: torch.Tensor) -> Array:
        condensed = torch.pdist(points).double().numpy()
        tree = tree_of(points.shape[0])(condensed).tocoo()
        return np.stack([tree.row, tree.col], axis=1)

    return edges


def _loss_of(make_edges: Callable[[int], Edges]) -> Callable[[torch.Tensor, int], Call]:
    """The whole loss from critical edges: forward in the library, lengths and loss in torch."""

    def prepare(points: torch.Tensor, threads: int) -> Call:
        edges = make_edges(threads)
        prompt = points.clone().requires_grad_()

        def run() -> tuple[torch.Tensor, torch.Tensor | None]:
            prompt.grad = None
            deaths = edge_lengths(prompt, edges(prompt.detach()))
            plain_loss(deaths).backward()
            return deaths, prompt.grad

        return Call(run, lambda r: stack_deaths([r[0].detach().numpy()], points), _gradient)

    return prepare


def _gradient(result: tuple[Any, torch.Tensor]) -> Array:
    return result[1].double().numpy()


def rips_total_persistence(points: torch.Tensor, threads: int) -> Call:
    from torch_topological.nn import SummaryStatisticLoss, VietorisRipsComplex

    rips = VietorisRipsComplex(dim=0, n_threads=threads)
    loss = SummaryStatisticLoss("total_persistence", p=1)
    prompt = points.clone().requires_grad_()

    def run() -> torch.Tensor:
        prompt.grad = None
        bars = rips(prompt)
        loss(bars).backward()
        diagram: torch.Tensor = bars[0].diagram
        return diagram

    return Call(run, lambda d: stack_deaths([d[:, 1].detach().numpy()], points))


def rips_signature(points: torch.Tensor, threads: int) -> Call:
    from torch_topological.nn import SignatureLoss, VietorisRipsComplex

    rips, loss = VietorisRipsComplex(dim=0, n_threads=threads), SignatureLoss()
    prompt = points.clone().requires_grad_()
    # The cloud to resemble. Its barcode does not change in training, so it is computed once.
    target = points.roll(1, dims=-1) * 1.1
    target_bars = rips(target)

    def run() -> torch.Tensor:
        prompt.grad = None
        bars = rips(prompt)
        loss((prompt, bars), (target, target_bars)).backward()
        diagram: torch.Tensor = bars[0].diagram
        return diagram

    return Call(run, lambda d: stack_deaths([d[:, 1].detach().numpy()], points))


def rips_backward(points: torch.Tensor, threads: int) -> Call:
    from torch_topological.nn import VietorisRipsComplex

    points = points.clone().requires_grad_()
    deaths = VietorisRipsComplex(dim=0, n_threads=threads)(points)[0].diagram[:, 1]
    return _backward(deaths, points)


def lengths_backward(points: torch.Tensor, threads: int) -> Call:
    from tsloss_fast import h0_persistence

    edges = h0_persistence(points).edges
    points = points.clone().requires_grad_()
    return _backward(edge_lengths(points, edges), points)


def _backward(deaths: torch.Tensor, points: torch.Tensor) -> Call:
    weight = death_weights(deaths.detach())

    def run() -> tuple[None, torch.Tensor]:
        return None, torch.autograd.grad(deaths, points, weight, retain_graph=True)[0]

    return Call(run, gradient=_gradient)


def death_weights(deaths: torch.Tensor) -> torch.Tensor:
    """A gradient that depends on the value of a death only, since the order differs by library."""
    return torch.linspace(0.5, 1.5, len(deaths), dtype=deaths.dtype)[deaths.argsort().argsort()]


def copy(points: torch.Tensor, threads: int) -> Call:
    """X.clone(): the cost of writing one gradient of this size."""
    return Call(points.clone)


_GUDHI = {"gudhi": "gudhi", "scipy": "scipy"}
_GIOTTO = {"gph": "giotto-ph", "scipy": "scipy"}
_TOPOLOGICAL = {"torch_topological": "torch-topological", "gph": "giotto-ph"}

LOSS = (
    Implementation(
        "GUDHI RipsComplex + torch",
        "RipsComplex(points), generators, edge lengths and the same loss in torch",
        _loss_of(gudhi_rips_edges),
        {"gudhi": "gudhi"},
        2048,
    ),
    Implementation(
        "GUDHI create_from_array + torch",
        "distances by torch, create_from_array, generators, the same loss in torch",
        _loss_of(gudhi_edges),
        _GUDHI,
        2048,
    ),
    Implementation(
        "giotto-ph + torch",
        "distances by torch, ripser_parallel with generators, the same loss in torch",
        _loss_of(giotto_edges),
        _GIOTTO,
        4096,
    ),
    Implementation(
        "SciPy MST + torch",
        "torch.pdist, csgraph.minimum_spanning_tree, the same loss in torch",
        _loss_of(scipy_edges),
        {"scipy": "scipy"},
        4096,
    ),
    Implementation(
        "torch-topological, total persistence",
        "VietorisRipsComplex(dim=0), SummaryStatisticLoss: another loss",
        rips_total_persistence,
        _TOPOLOGICAL,
        4096,
    ),
    Implementation(
        "torch-topological, signature",
        "VietorisRipsComplex(dim=0), SignatureLoss to a fixed cloud: another loss",
        rips_signature,
        _TOPOLOGICAL,
        4096,
    ),
)

BACKWARD = (
    Implementation(
        "torch-topological",
        "autograd through VietorisRipsComplex(dim=0), that is through torch.cdist",
        rips_backward,
        _TOPOLOGICAL,
        4096,
    ),
    Implementation(
        "torch edge lengths",
        "autograd through |x_i - x_j| of the same critical edges",
        lengths_backward,
        {"tsloss_fast": "tsloss-fast"},
    ),
    Implementation("X.clone()", "one copy of the points", copy, role="yardstick"),
)
