"""The implementations that are asked: ours, and those that people use.

Each is called as its documentation shows, in the widest type it takes, with the distances of its
own or, where it wants a matrix, those of SciPy's pdist in double.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .adapter import Adapter, Answer, NotOffered

__all__ = ["OTHERS", "all_adapters", "ours"]

Array = np.ndarray[Any, Any]


def wide(points: Tensor) -> Array:
    array: Array = points.double().numpy()
    return array


def distances(points: Tensor) -> Array:
    from scipy.spatial.distance import pdist, squareform

    matrix: Array = squareform(pdist(wide(points)))
    return matrix


def _gudhi(tree: Any) -> Answer:
    tree.compute_persistence(min_persistence=-1.0)
    deaths = tree.persistence_intervals_in_dimension(0)[:, 1]
    deaths = deaths[np.isfinite(deaths)]
    edges = np.asarray(tree.flag_persistence_generators()[0]).reshape(-1, 3)[:, 1:]
    if len(edges) != len(deaths):
        raise ValueError(f"{len(deaths)} finite intervals, {len(edges)} generators")
    return Answer([tree.filtration(edge) for edge in edges.tolist()], edges)


def gudhi_points(points: Tensor) -> Answer:
    import gudhi

    return _gudhi(gudhi.RipsComplex(points=wide(points)).create_simplex_tree(max_dimension=1))


def gudhi_rips_matrix(matrix: Array) -> Answer:
    import gudhi

    rips = gudhi.RipsComplex(distance_matrix=matrix)
    return _gudhi(rips.create_simplex_tree(max_dimension=1))


def gudhi_matrix(matrix: Array) -> Answer:
    import gudhi

    return _gudhi(gudhi.SimplexTree.create_from_array(matrix))


def some_numbers(points: Tensor) -> None:
    """Raise NotOffered for a cloud without numbers, for libraries that refuse it by a check of
    their arguments (scikit-learn's)."""
    if points.numel() == 0:
        raise NotOffered


def ripser_points(points: Tensor) -> Answer:
    from ripser import ripser

    some_numbers(points)
    return Answer(ripser(wide(points), maxdim=0)["dgms"][0][:, 1])


def ripser_matrix(matrix: Array) -> Answer:
    from ripser import ripser

    return Answer(ripser(matrix, maxdim=0, distance_matrix=True)["dgms"][0][:, 1])


def _giotto(data: Array, **options: Any) -> Answer:
    from gph import ripser_parallel

    result = ripser_parallel(data, maxdim=0, return_generators=True, **options)
    deaths = result["dgms"][0][:, 1]
    return Answer(deaths[np.isfinite(deaths)], np.asarray(result["gens"][0])[:, 1:])


def giotto_points(points: Tensor) -> Answer:
    some_numbers(points)
    return _giotto(wide(points))


def giotto_matrix(matrix: Array) -> Answer:
    return _giotto(matrix, metric="precomputed")


def _topological(points: Tensor) -> Any:
    from torch_topological.nn import VietorisRipsComplex

    return VietorisRipsComplex(dim=0)(points)[0].diagram[:, 1]


def topological_points(points: Tensor) -> Answer:
    return Answer(_topological(points.double()).detach())


def topological_gradient(points: Tensor, weights: Tensor) -> Tensor:
    x = points.clone().requires_grad_()
    deaths = _topological(x)
    (gradient,) = torch.autograd.grad((deaths.sort().values * weights).sum(), x)
    return gradient


def scipy_points(points: Tensor) -> Answer:
    return scipy_matrix(distances(points))


def scipy_matrix(matrix: Array) -> Answer:
    from scipy.sparse.csgraph import minimum_spanning_tree

    tree = minimum_spanning_tree(matrix).tocoo()
    return Answer(tree.data, np.stack([tree.row, tree.col], 1))


def fastcluster_points(points: Tensor) -> Answer:
    import fastcluster
    from scipy.spatial.distance import squareform

    matrix = torch.cdist(points.double(), points.double()).numpy()
    return Answer(fastcluster.single(squareform(matrix, checks=False))[:, 2])


def fastcluster_matrix(matrix: Array) -> Answer:
    import fastcluster
    from scipy.spatial.distance import squareform

    return Answer(fastcluster.single(squareform(matrix))[:, 2])


OTHERS = (
    Adapter("GUDHI RipsComplex", {"gudhi": "gudhi"}, gudhi_points, gudhi_rips_matrix),
    Adapter(
        "GUDHI create_from_array",
        {"gudhi": "gudhi", "scipy": "scipy"},
        lambda points: gudhi_matrix(distances(points)),
        gudhi_matrix,
    ),
    Adapter("ripser.py", {"ripser": "ripser"}, ripser_points, ripser_matrix),
    Adapter("giotto-ph", {"gph": "giotto-ph"}, giotto_points, giotto_matrix),
    Adapter(
        "torch-topological",
        {"torch_topological": "torch-topological"},
        topological_points,
        gradient=topological_gradient,
    ),
    Adapter("SciPy pdist + MST", {"scipy": "scipy"}, scipy_points, scipy_matrix),
    Adapter(
        "torch.cdist + fastcluster",
        {"fastcluster": "fastcluster", "scipy": "scipy"},
        fastcluster_points,
        fastcluster_matrix,
    ),
)


class Ways:
    """One instruction set, by every path through the core, whose bits have to be the same."""

    # path, sample_one_in, wave_one_in, coded, seed: the arguments of _core.set_overrides.
    PATHS = ((), (1,), (2,), (3, 0, 0, 0), (3, 2, 3, 1, 7), (3, 1000000, -1, 1, 8), (4,))

    def __init__(self, isa: str, device: str = "cpu") -> None:
        self.isa, self.device = isa, device

    def _every(self, call: Any) -> Any:
        from tsloss_fast import _core

        before = _core.isa()
        _core.set_isa(self.isa)
        results = []
        try:
            for path in self.PATHS if self.device == "cpu" else self.PATHS[:1]:
                _core.set_overrides(*path)
                results.append(call())
        finally:
            _core.set_overrides()
            _core.set_isa(before)
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                assert torch.equal(a, b), "paths through the core disagree"
        return [part.detach().cpu() for part in results[0]]

    def points(self, points: Tensor) -> Answer:
        import tsloss_fast

        x = points.to(self.device)
        return Answer(*self._every(lambda: tsloss_fast.h0_persistence(x, check_finite=True)))

    def matrix(self, matrix: Array) -> Answer:
        import tsloss_fast

        d = torch.from_numpy(matrix).to(self.device)
        call = tsloss_fast.h0_persistence_from_distances
        return Answer(*self._every(lambda: call(d, check_finite=True)))

    def batch(self, points: Tensor) -> list[Answer]:
        import tsloss_fast

        x = points.to(self.device)
        deaths, edges = self._every(lambda: tsloss_fast.h0_persistence(x, check_finite=True))
        return [Answer(d, e) for d, e in zip(deaths, edges, strict=True)]

    def gradient(self, points: Tensor, weights: Tensor) -> Tensor:
        import tsloss_fast

        x = points.to(self.device).requires_grad_()
        w = weights.to(self.device)

        def call() -> Any:
            deaths = tsloss_fast.h0_persistence(x).deaths
            return torch.autograd.grad((deaths * w).sum(), x)

        gradient: Tensor = self._every(call)[0]
        return gradient


def ours() -> Iterator[Adapter]:
    """Every instruction set of this processor, and the CUDA kernels where they can run."""
    from tsloss_fast import _core

    places = [(isa, "cpu") for isa in _core.supported_isas()]
    if _core.has_cuda and torch.cuda.is_available():
        places.append((_core.isa(), "cuda"))
    for isa, device in places:
        ways = Ways(isa, device)
        name = f"tsloss_fast ({isa if device == 'cpu' else device})"
        packages = {"tsloss_fast": "tsloss_fast"}
        yield Adapter(name, packages, ways.points, ways.matrix, ways.gradient, ways.batch)


def all_adapters() -> list[Adapter]:
    return [*ours(), *(adapter for adapter in OTHERS if not adapter.missing)]
