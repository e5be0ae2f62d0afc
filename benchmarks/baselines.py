"""The other ways to get the H0 barcode of a point cloud, each called as well as we know how.

Measured choices that the reader may want to check:
- GUDHI's RipsComplex takes a float64 array up to 5 times faster than a float32 one: ``double()``.
- Libraries that take a distance matrix get the faster of ``torch.pdist`` and ``torch.cdist``, with
  its diagonal set to 0: their own distances (sklearn, SciPy) take 1.5 to 10 times longer, and a
  diagonal that is not 0, as Gram distances have it, gives points a birth.
- ``torch.cdist`` uses ``|x|² + |y|² - 2x·y`` above 25 points: fast and inexact.
- For SciPy's tree the condensed distances are handed over as an upper triangular CSR matrix with
  its pattern made beforehand, which saves half of the time of a dense one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .implementation import Array, Call, Implementation, per_cloud, stack_deaths

# Above this torch.cdist is the faster one (measured from 16 to 4096 dimensions).
_PDIST_POINTS = 32


def distance_matrix(cloud: torch.Tensor) -> Array:
    """The (N, N) float32 distances with a zero diagonal, by the fastest function at hand."""
    if cloud.shape[0] > _PDIST_POINTS:
        matrix: Array = torch.cdist(cloud, cloud).fill_diagonal_(0).numpy()
    else:
        from scipy.spatial.distance import squareform

        matrix = squareform(torch.pdist(cloud).numpy(), checks=False)
    return matrix


def exact_matrix(cloud: torch.Tensor) -> Array:
    """The (N, N) float32 distances by differences."""
    mode = "donot_use_mm_for_euclid_dist"
    matrix: Array = torch.cdist(cloud, cloud, compute_mode=mode).fill_diagonal_(0).numpy()
    return matrix


def matrix_fastcluster(points: torch.Tensor, threads: int) -> Call:
    import fastcluster
    from scipy.spatial.distance import squareform

    matrix = exact_matrix(points)

    def run() -> Array:
        links: Array = fastcluster.linkage(squareform(matrix, checks=False), method="single")
        return links

    return Call(run, lambda link: stack_deaths([link[:, 2]], points.unsqueeze(0))[0])


def matrix_scipy(points: torch.Tensor, threads: int) -> Call:
    from scipy.spatial.distance import squareform

    matrix, tree_of = exact_matrix(points), scipy_trees(points.shape[0])
    return Call(
        lambda: tree_of(squareform(matrix, checks=False)),
        lambda tree: stack_deaths([tree.data], points.unsqueeze(0))[0],
    )


def matrix_sum(points: torch.Tensor, threads: int) -> Call:
    """One read of the matrix: the least that any method pays."""
    matrix = torch.from_numpy(exact_matrix(points))
    return Call(lambda: matrix.sum())


def gudhi_rips(points: torch.Tensor, threads: int) -> Call:
    import gudhi

    def run() -> list[Any]:
        trees = []
        for cloud in per_cloud(points):
            rips = gudhi.RipsComplex(points=cloud.double().numpy())
            trees.append(_gudhi_persistence(rips.create_simplex_tree(max_dimension=1)))
        return trees

    return Call(run, lambda trees: _gudhi_deaths(trees, points))


def gudhi_array(points: torch.Tensor, threads: int) -> Call:
    import gudhi

    def run() -> list[Any]:
        trees = []
        for cloud in per_cloud(points):
            matrix = distance_matrix(cloud).astype(np.float64)
            trees.append(_gudhi_persistence(gudhi.SimplexTree.create_from_array(matrix)))
        return trees

    return Call(run, lambda trees: _gudhi_deaths(trees, points))


def _gudhi_persistence(tree: Any) -> tuple[Any, Any]:
    # -1 keeps the bars of length 0. The generators are the critical edges.
    tree.compute_persistence(min_persistence=-1.0)
    return tree, tree.flag_persistence_generators()


def _gudhi_deaths(trees: list[Any], points: torch.Tensor) -> Array:
    intervals = [tree.persistence_intervals_in_dimension(0)[:, 1] for tree, _ in trees]
    return stack_deaths(intervals, points)


def gudhi_sklearn(points: torch.Tensor, threads: int) -> Call:
    from gudhi.sklearn import RipsPersistence

    jobs = threads if threads > 1 and points.ndim == 3 else None
    rips = RipsPersistence(0, input_type="full distance matrix", n_jobs=jobs).fit([])

    def run() -> Any:
        return rips.transform([distance_matrix(cloud) for cloud in per_cloud(points)])

    return Call(run, lambda bars: stack_deaths([b[:, 1] for b in bars], points))


def ripser_py(points: torch.Tensor, threads: int) -> Call:
    from ripser import ripser

    def run() -> list[Array]:
        matrices = map(distance_matrix, per_cloud(points))
        return [ripser(m, maxdim=0, distance_matrix=True)["dgms"][0] for m in matrices]

    return Call(run, lambda bars: stack_deaths([b[:, 1] for b in bars], points))


def giotto_ph(points: torch.Tensor, threads: int) -> Call:
    from gph import ripser_parallel

    def run() -> list[Any]:
        matrices = map(distance_matrix, per_cloud(points))
        return [
            ripser_parallel(
                m, maxdim=0, metric="precomputed", n_threads=threads, return_generators=True
            )
            for m in matrices
        ]

    return Call(run, lambda bars: stack_deaths([b["dgms"][0][:, 1] for b in bars], points))


def torch_topological(points: torch.Tensor, threads: int) -> Call:
    from torch_topological.nn import VietorisRipsComplex

    rips = VietorisRipsComplex(dim=0, n_threads=threads)

    def run() -> list[Any]:
        return [rips(cloud)[0] for cloud in per_cloud(points)]

    return Call(run, lambda bars: stack_deaths([b.diagram[:, 1].numpy() for b in bars], points))


def cdist_fastcluster(points: torch.Tensor, threads: int) -> Call:
    import fastcluster
    from scipy.spatial.distance import squareform

    def run() -> list[Array]:
        distances = torch.cdist(points, points)
        condensed = [squareform(d.numpy(), checks=False) for d in per_cloud(distances)]
        return [fastcluster.linkage(d, method="single") for d in condensed]

    return Call(run, lambda links: stack_deaths([link[:, 2] for link in links], points))


def pdist_fastcluster(points: torch.Tensor, threads: int) -> Call:
    import fastcluster

    def run() -> list[Array]:
        condensed = [torch.pdist(cloud).numpy() for cloud in per_cloud(points)]
        return [fastcluster.linkage(d, method="single") for d in condensed]

    return Call(run, lambda links: stack_deaths([link[:, 2] for link in links], points))


def scipy_tree(points: torch.Tensor, threads: int) -> Call:
    from scipy.spatial.distance import pdist

    tree_of = scipy_trees(points.shape[-2])

    def run() -> list[Any]:
        return [tree_of(pdist(cloud.double().numpy())) for cloud in per_cloud(points)]

    return Call(run, lambda trees: stack_deaths([tree.data for tree in trees], points))


def scipy_trees(n: int) -> Callable[[Array], Any]:
    """A function from the condensed distances of n points to SciPy's minimum spanning tree."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree

    columns = np.triu_indices(n, 1)[1].astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(np.arange(n - 1, -1, -1))]).astype(np.int32)
    return lambda condensed: minimum_spanning_tree(csr_matrix((condensed, columns, starts), (n, n)))


def gram(points: torch.Tensor, threads: int) -> Call:
    """X·Xᵀ: what any method that gets its distances from inner products pays before it starts."""
    multiply = torch.bmm if points.ndim == 3 else torch.mm
    return Call(lambda: multiply(points, points.mT))


_SCIPY = {"scipy": "scipy"}
_FASTCLUSTER = {"fastcluster": "fastcluster"}

FORWARD = (
    Implementation(
        "GUDHI RipsComplex",
        "RipsComplex(points).create_simplex_tree(1), persistence, generators; float64",
        gudhi_rips,
        {"gudhi": "gudhi"},
        2048,
    ),
    Implementation(
        "GUDHI create_from_array",
        "distances by torch, SimplexTree.create_from_array, persistence, generators",
        gudhi_array,
        {"gudhi": "gudhi"} | _SCIPY,
        2048,
    ),
    Implementation(
        "GUDHI RipsPersistence",
        "distances by torch, gudhi.sklearn.RipsPersistence(0); no critical edges",
        gudhi_sklearn,
        {"gudhi": "gudhi", "sklearn": "scikit-learn", "joblib": "joblib"},
        4096,
    ),
    Implementation(
        "ripser.py",
        "distances by torch, ripser(maxdim=0); no critical edges",
        ripser_py,
        {"ripser": "ripser"},
        2048,
    ),
    Implementation(
        "giotto-ph",
        "distances by torch, ripser_parallel(maxdim=0) with generators",
        giotto_ph,
        {"gph": "giotto-ph"},
        4096,
    ),
    Implementation(
        "torch-topological",
        "VietorisRipsComplex(dim=0), forward; torch.cdist and giotto-ph inside",
        torch_topological,
        {"torch_topological": "torch-topological", "gph": "giotto-ph"},
        4096,
    ),
    Implementation(
        "SciPy pdist + MST",
        "pdist in float64, csgraph.minimum_spanning_tree; drops edges of length 0",
        scipy_tree,
        _SCIPY,
        4096,
    ),
    Implementation(
        "torch.cdist + fastcluster",
        "torch.cdist (inexact above 25 points), single linkage; no critical edges",
        cdist_fastcluster,
        _FASTCLUSTER | _SCIPY,
        16384,
    ),
    Implementation(
        "torch.pdist + fastcluster",
        "torch.pdist (exact differences), single linkage; no critical edges",
        pdist_fastcluster,
        _FASTCLUSTER,
        16384,
    ),
    Implementation("sgemm X·Xᵀ", "torch.mm(X, X.T), torch.bmm for a batch", gram, role="yardstick"),
)

MATRIX = (
    Implementation(
        "fastcluster on the matrix",
        "squareform, single linkage; no critical edges",
        matrix_fastcluster,
        _FASTCLUSTER | _SCIPY,
        16384,
    ),
    Implementation(
        "SciPy MST on the matrix",
        "squareform, csgraph.minimum_spanning_tree; drops edges of length 0",
        matrix_scipy,
        _SCIPY,
        4096,
    ),
    Implementation("matrix.sum()", "one read of the matrix", matrix_sum, role="yardstick"),
)
