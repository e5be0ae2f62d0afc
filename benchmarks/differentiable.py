"""Training steps: a loss of a barcode, forward and backward, as people write it.

GUDHI and fastcluster give edges or deaths and no gradient. What their users write around them is
the length of each critical edge in torch, and autograd does the rest; so do the steps here, each in
the two ways that we know: lengths of edges gathered from the points, and distances gathered from a
differentiable ``torch.pdist``. Every step computes the same loss, and both its value and its
gradient are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .baselines import gudhi_from_distances, gudhi_from_points
from .implementation import Array, Call, Implementation, implementation

Edges = Callable[[Tensor], Array | Tensor]
# The critical edges of a cloud in a form of their own, and the lengths of such edges in that cloud.
Lengths = tuple[Any, Callable[[Any], Tensor]]
Way = Callable[[Tensor], Lengths]


def edge_lengths(points: Tensor, edges: Array | Tensor) -> Tensor:
    """The (E,) lengths of the critical edges, with a gradient to both ends."""
    i, j = torch.as_tensor(edges, dtype=torch.int64).T
    ends = points.index_select(0, i), points.index_select(0, j)  # faster than indexing
    lengths: Tensor = torch.linalg.vector_norm(ends[0] - ends[1], dim=-1)
    return lengths


def plain_loss(deaths: Tensor, rho: float = 0.5) -> Tensor:
    """Var(d)/m² + mean relu(1 - d/(rho·m))², connectivity and redundancy; m is the mean death."""
    mean = deaths.mean()
    redundancy = torch.relu(1 - deaths / (rho * mean)).square().mean()
    return deaths.var(correction=0) / mean.square() + redundancy


def latent_of(points: Tensor) -> Tensor:
    """The latent space of a topological autoencoder: two dimensions, here two of the input's."""
    return points[:, :2].clone()


# What is minimised, as a function of the deaths.
_OBJECTIVES: dict[str, Callable[[Tensor], Tensor]] = {"deaths": torch.sum, "loss": plain_loss}


def signature(differences: Tensor) -> Tensor:
    """Half of a topological autoencoder's loss, as torch-topological has it: not normalised."""
    half: Tensor = 0.5 * torch.linalg.vector_norm(differences)
    return half


def step_value(kind: str, points: Tensor, leaf: Tensor, way: Way) -> Tensor:
    """The loss of a training step; of a pair, each space measured along the other's tree too."""
    edges, lengths = way(leaf)
    if kind != "pair":
        return _OBJECTIVES[kind](lengths(edges))
    input_edges, input_lengths = way(points)
    both = torch.cat([torch.as_tensor(input_edges), torch.as_tensor(edges)])
    halves = (input_lengths(both) - lengths(both)).chunk(2)
    return signature(halves[0]) + signature(halves[1])


def step(
    kind: str, value: Callable[[Tensor, Tensor], Tensor], points: Tensor, dtype: Any = None
) -> Call:
    """The call that computes a value of the points and the leaf, and the gradient to the leaf."""
    leaf = (latent_of(points) if kind == "pair" else points.clone()).requires_grad_()

    def run() -> tuple[Tensor, Tensor | None]:
        leaf.grad = None
        result = value(points, leaf)
        result.backward()
        return result, leaf.grad

    def read(found: tuple[Tensor, Tensor]) -> dict[str, Array]:
        result, gradient = found
        return {"value": result.detach().double().numpy(), "gradient": gradient.double().numpy()}

    return Call(run, read)


def through_edges(edges: Edges) -> Way:
    """The way of a library that gives critical edges: their lengths are written in torch."""

    def way(cloud: Tensor) -> Lengths:
        return edges(cloud.detach()), lambda chosen: edge_lengths(cloud, chosen)

    return way


@cache
def _upper(n: int) -> Tensor:
    """The pairs of points in the order of ``torch.pdist``, which a user makes once."""
    return torch.triu_indices(n, n, 1)


def places(distances: Array, deaths: Array) -> Tensor:
    """Where the deaths stand among the distances that they were taken from. Distances that tie
    would share a place, which makes this a way for data in general position alone."""
    order = distances.argsort()
    found = np.searchsorted(distances, deaths.astype(distances.dtype), sorter=order)
    return torch.from_numpy(order[found])


def gathered(deaths: Callable[[Array], Array]) -> Way:
    """The way of a library that gives deaths of ``torch.pdist``: they are gathered there again."""

    def way(cloud: Tensor) -> Lengths:
        distances = torch.pdist(cloud)
        condensed = distances.detach().numpy()
        return places(condensed, deaths(condensed)), lambda chosen: distances[chosen]

    return way


def pdist_edges(deaths: Callable[[Array], Array]) -> Edges:
    """Return the edges of the same deaths, which spare the backward pass of ``torch.pdist``."""

    def edges(cloud: Tensor) -> Any:
        condensed = torch.pdist(cloud).numpy()
        return _upper(cloud.shape[0])[:, places(condensed, deaths(condensed))].T

    return edges


def gudhi_edges(cloud: Tensor) -> Array:
    return np.asarray(gudhi_from_distances(cloud)[1][0])[:, 1:]


def gudhi_rips_edges(cloud: Tensor) -> Array:
    return np.asarray(gudhi_from_points(cloud)[1][0])[:, 1:]


def _rips_deaths() -> Callable[[Array], Array]:
    from gudhi.sklearn import RipsPersistence
    from scipy.spatial.distance import squareform

    rips = RipsPersistence(0, input_type="full distance matrix").fit([])

    def deaths(condensed: Array) -> Array:
        found: Array = rips.transform([squareform(condensed, checks=False)])[0][:, 1]
        return found[np.isfinite(found)]

    return deaths


def _linkage_deaths() -> Callable[[Array], Array]:
    import fastcluster

    return lambda condensed: fastcluster.linkage(condensed, method="single")[:, 2]


def _step_by(kind: str, make: Callable[[], Way]) -> Callable[[Tensor, int], Call]:
    def prepare(points: Tensor, threads: int) -> Call:
        way = make()
        return step(kind, lambda x, leaf: step_value(kind, x, leaf, way), points)

    return prepare


def _topological_step(kind: str) -> Callable[[Tensor, int], Call]:
    """torch-topological gives a differentiable diagram, and the loss of Moor et al. as a module."""

    def prepare(points: Tensor, threads: int) -> Call:
        from torch_topological.nn import SignatureLoss, VietorisRipsComplex

        rips, signature = (
            VietorisRipsComplex(dim=0, n_threads=threads),
            SignatureLoss(normalise=False),
        )

        def value(x: Tensor, leaf: Tensor) -> Tensor:
            bars = rips(leaf)
            if kind == "pair":
                both: Tensor = signature((x, rips(x)), (leaf, bars))
                return both
            return _OBJECTIVES[kind](bars[0].diagram[:, 1])

        return step(kind, value, points)

    return prepare


def steps(kind: str) -> tuple[Implementation, ...]:
    """The other ways to a training step of this kind."""
    return (
        Implementation(
            "GUDHI RipsComplex",
            "RipsComplex(points) in float64, generators, edge lengths and the loss in torch",
            _step_by(kind, lambda: through_edges(gudhi_rips_edges)),
            ("gudhi",),
        ),
        Implementation(
            "GUDHI fastest, create_from_array",
            "distances by torch, create_from_array, generators, edge lengths and the loss in torch",
            _step_by(kind, lambda: through_edges(gudhi_edges)),
            ("gudhi", "scipy"),
        ),
        Implementation(
            "GUDHI fastest, RipsPersistence",
            "torch.pdist, RipsPersistence(0), its deaths gathered from torch.pdist by their values",
            _step_by(kind, lambda: gathered(_rips_deaths())),
            ("gudhi", "scipy", "sklearn", "joblib"),
        ),
        Implementation(
            "torch-topological",
            "VietorisRipsComplex(dim=0) and the loss of its diagram; of a pair its SignatureLoss",
            _topological_step(kind),
            ("torch_topological", "gph"),
        ),
        Implementation(
            "torch + fastcluster, gathered",
            "torch.pdist, single linkage, its deaths gathered from torch.pdist by their values",
            _step_by(kind, lambda: gathered(_linkage_deaths())),
            ("fastcluster",),
        ),
        Implementation(
            "torch + fastcluster, edge lengths",
            "torch.pdist without a gradient, single linkage, edge lengths and the loss in torch",
            _step_by(kind, lambda: through_edges(pdist_edges(_linkage_deaths()))),
            ("fastcluster",),
        ),
    )


@implementation("torch-topological", "torch_topological", "gph")
def rips_backward(points: Tensor, threads: int) -> Call:
    """autograd through VietorisRipsComplex(dim=0), that is through torch.cdist"""
    from torch_topological.nn import VietorisRipsComplex

    points = points.clone().requires_grad_()
    deaths = VietorisRipsComplex(dim=0, n_threads=threads)(points)[0].diagram[:, 1]
    return backward_of(deaths, points)


@implementation("torch edge lengths", "tsloss_fast")
def lengths_backward(points: Tensor, threads: int) -> Call:
    """autograd through |x_i - x_j| of the same critical edges"""
    from tsloss_fast import h0_persistence

    edges = h0_persistence(points).edges
    points = points.clone().requires_grad_()
    return backward_of(edge_lengths(points, edges), points)


def backward_of(deaths: Tensor, points: Tensor) -> Call:
    """The backward pass alone, of a gradient that depends on the value of a death only, since the
    order differs by library."""
    order = deaths.detach().argsort().argsort()
    weight = torch.linspace(0.5, 1.5, len(deaths), dtype=deaths.dtype)[order]

    def run() -> Tensor:
        return torch.autograd.grad(deaths, points, weight, retain_graph=True)[0]

    return Call(run, lambda gradient: {"gradient": gradient.double().numpy()})


@implementation("X.clone()", role="yardstick")
def copy(points: Tensor, threads: int) -> Call:
    """one copy of the points"""
    return Call(points.clone)


BACKWARD = (rips_backward, lengths_backward, copy)
