"""The other ways to get the H0 barcode of a point cloud, each called as well as we know how.

Measured choices that the reader may want to check:
- GUDHI's RipsComplex takes a float64 array up to 5 times faster than a float32 one: ``double()``.
- Libraries that take a distance matrix get the faster of ``torch.pdist`` and ``torch.cdist``, with
  its diagonal set to 0: their own distances (SciPy) take 1.5 to 10 times longer, and a diagonal
  that is not 0, as Gram distances have it, gives points a birth.
- ``torch.cdist`` uses ``|x|² + |y|² - 2x·y`` above 25 points: fast and inexact.
- For SciPy's tree the condensed distances are handed over as an upper triangular CSR matrix with
  its pattern made beforehand, which saves half of the time of a dense one.
- quitefastmst gets float32 points, and its own choice between k-d trees and brute force.
- A batch is a loop. Over small clouds it runs on one thread, because a team of threads costs
  torch and quitefastmst more than it brings; two Python threads bring nothing either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .implementation import Array, Call, implementation, stack_deaths

# Above this torch.cdist is the faster one (measured from 16 to 4096 dimensions).
_PDIST_POINTS = 32
# Below this its Gram formula is neither faster than differences nor right to four digits.
_GRAM_DIMENSION = 8
# Larger clouds of a batch are worth the start of several threads.
_TEAM_POINTS = 1000


def distance_matrix(cloud: torch.Tensor) -> Array:
    """The (N, N) distances with a zero diagonal, by the fastest function at hand."""
    if cloud.shape[1] < _GRAM_DIMENSION:
        return exact_matrix(cloud)
    if cloud.shape[0] > _PDIST_POINTS:
        matrix: Array = torch.cdist(cloud, cloud).fill_diagonal_(0).numpy()
    else:
        from scipy.spatial.distance import squareform

        matrix = squareform(torch.pdist(cloud).numpy(), checks=False)
    return matrix


def exact_matrix(cloud: torch.Tensor) -> Array:
    """The (N, N) distances by differences."""
    mode = "donot_use_mm_for_euclid_dist"
    matrix: Array = torch.cdist(cloud, cloud, compute_mode=mode).fill_diagonal_(0).numpy()
    return matrix


def looped(
    points: torch.Tensor,
    threads: int,
    one: Callable[[torch.Tensor], Any],
    bars: Callable[[Any], Array],
    set_threads: Callable[[int], None] = torch.set_num_threads,
) -> Call:
    """The call of ``one`` for a cloud, or for every cloud of a batch; ``bars`` reads its deaths."""

    def run() -> list[Any]:
        if points.ndim == 2:
            return [one(points)]
        set_threads(1 if points.shape[1] < _TEAM_POINTS else threads)
        try:
            return [one(cloud) for cloud in points]
        finally:
            set_threads(threads)

    return Call(run, lambda found: {"deaths": stack_deaths([bars(b) for b in found], points)})


def gudhi_from_points(cloud: torch.Tensor) -> tuple[Any, Any]:
    """The tree of persistence and its generators, which are the critical edges."""
    import gudhi

    rips = gudhi.RipsComplex(points=cloud.double().numpy())
    return _gudhi_persistence(rips.create_simplex_tree(max_dimension=1))


def gudhi_from_distances(cloud: torch.Tensor) -> tuple[Any, Any]:
    """The tree and its generators, from the distances of torch."""
    import gudhi

    matrix = distance_matrix(cloud).astype(np.float64)
    return _gudhi_persistence(gudhi.SimplexTree.create_from_array(matrix))


def _gudhi_persistence(tree: Any) -> tuple[Any, Any]:
    tree.compute_persistence(min_persistence=-1.0)  # -1 keeps the bars of length 0
    return tree, tree.flag_persistence_generators()


def _gudhi_deaths(found: tuple[Any, Any]) -> Array:
    deaths: Array = found[0].persistence_intervals_in_dimension(0)[:, 1]
    return deaths


@implementation("GUDHI RipsComplex", "gudhi")
def gudhi_rips(points: torch.Tensor, threads: int) -> Call:
    """RipsComplex(points).create_simplex_tree(1), persistence, generators; float64"""
    return looped(points, threads, gudhi_from_points, _gudhi_deaths)


@implementation("GUDHI create_from_array", "gudhi", "scipy")
def gudhi_array(points: torch.Tensor, threads: int) -> Call:
    """distances by torch, SimplexTree.create_from_array, persistence, generators"""
    return looped(points, threads, gudhi_from_distances, _gudhi_deaths)


@implementation("GUDHI RipsPersistence", "gudhi", "sklearn", "joblib")
def gudhi_sklearn(points: torch.Tensor, threads: int) -> Call:
    """distances by torch, gudhi.sklearn.RipsPersistence(0); no critical edges"""
    from gudhi.sklearn import RipsPersistence

    rips = RipsPersistence(0, input_type="full distance matrix").fit([])
    return looped(
        points, threads, lambda x: rips.transform([distance_matrix(x)])[0], lambda b: b[:, 1]
    )


@implementation("ripser.py", "ripser")
def ripser_py(points: torch.Tensor, threads: int) -> Call:
    """distances by torch, ripser(maxdim=0); no critical edges"""
    from ripser import ripser

    def one(cloud: torch.Tensor) -> Array:
        bars: Array = ripser(distance_matrix(cloud), maxdim=0, distance_matrix=True)["dgms"][0]
        return bars

    return looped(points, threads, one, lambda bars: bars[:, 1])


@implementation("giotto-ph", "gph")
def giotto_ph(points: torch.Tensor, threads: int) -> Call:
    """distances by torch, ripser_parallel(maxdim=0) with generators"""
    from gph import ripser_parallel

    options = {"maxdim": 0, "metric": "precomputed", "n_threads": threads}

    def one(cloud: torch.Tensor) -> Any:
        return ripser_parallel(distance_matrix(cloud), return_generators=True, **options)

    return looped(points, threads, one, lambda found: found["dgms"][0][:, 1])


@implementation("torch-topological", "torch_topological", "gph")
def torch_topological(points: torch.Tensor, threads: int) -> Call:
    """VietorisRipsComplex(dim=0), forward; torch.cdist and giotto-ph inside"""
    from torch_topological.nn import VietorisRipsComplex

    rips = VietorisRipsComplex(dim=0, n_threads=threads)
    return looped(points, threads, lambda x: rips(x)[0], lambda b: b.diagram[:, 1].numpy())


@implementation("torch.cdist + fastcluster", "fastcluster", "scipy")
def cdist_fastcluster(points: torch.Tensor, threads: int) -> Call:
    """torch.cdist (inexact above 25 points), single linkage; no critical edges"""
    import fastcluster
    from scipy.spatial.distance import squareform

    def run() -> list[Array]:
        distances = torch.cdist(points, points)
        matrices = [distances] if points.ndim == 2 else list(distances)
        condensed = [squareform(d.numpy(), checks=False) for d in matrices]
        return [fastcluster.linkage(d, method="single") for d in condensed]

    return Call(run, lambda f: {"deaths": stack_deaths([link[:, 2] for link in f], points)})


@implementation("torch.pdist + fastcluster", "fastcluster")
def pdist_fastcluster(points: torch.Tensor, threads: int) -> Call:
    """torch.pdist (exact differences), single linkage; no critical edges"""
    import fastcluster

    def one(cloud: torch.Tensor) -> Array:
        links: Array = fastcluster.linkage(torch.pdist(cloud).numpy(), method="single")
        return links

    return looped(points, threads, one, lambda links: links[:, 2])


@implementation("SciPy pdist + MST", "scipy")
def scipy_tree(points: torch.Tensor, threads: int) -> Call:
    """pdist in float64, csgraph.minimum_spanning_tree; drops edges of length 0"""
    from scipy.spatial.distance import pdist

    tree_of = scipy_trees(points.shape[-2])
    return looped(
        points, threads, lambda x: tree_of(pdist(x.double().numpy())), lambda tree: tree.data
    )


def scipy_trees(n: int) -> Callable[[Array], Any]:
    """A function from the condensed distances of n points to SciPy's minimum spanning tree."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree

    columns = np.triu_indices(n, 1)[1].astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(np.arange(n - 1, -1, -1))]).astype(np.int32)
    return lambda condensed: minimum_spanning_tree(csr_matrix((condensed, columns, starts), (n, n)))


@implementation("SciPy pdist + linkage", "scipy")
def scipy_linkage(points: torch.Tensor, threads: int) -> Call:
    """pdist in float64, cluster.hierarchy.linkage(single); no critical edges"""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import pdist

    def one(cloud: torch.Tensor) -> Array:
        links: Array = linkage(pdist(cloud.double().numpy()), "single")
        return links

    return looped(points, threads, one, lambda links: links[:, 2])


@implementation("scikit-learn", "sklearn")
def sklearn_linkage(points: torch.Tensor, threads: int) -> Call:
    """AgglomerativeClustering(linkage='single'), its only public way; no critical edges"""
    from sklearn.cluster import AgglomerativeClustering

    model = AgglomerativeClustering(n_clusters=None, distance_threshold=0, linkage="single")

    def one(cloud: torch.Tensor) -> Array:
        deaths: Array = model.fit(cloud.numpy()).distances_
        return deaths

    return looped(points, threads, one, lambda deaths: deaths)


@implementation("quitefastmst", "quitefastmst")
def quitefastmst(points: torch.Tensor, threads: int) -> Call:
    """mst_euclid(points): k-d trees up to 20 dimensions, else brute force"""
    from quitefastmst import mst_euclid, omp_set_num_threads

    omp_set_num_threads(threads)
    return looped(
        points, threads, lambda x: mst_euclid(x.numpy()), lambda tree: tree[0], omp_set_num_threads
    )


@implementation("sgemm X·Xᵀ", role="yardstick")
def gram(points: torch.Tensor, threads: int) -> Call:
    """torch.mm(X, X.T), torch.bmm for a batch"""
    multiply = torch.bmm if points.ndim == 3 else torch.mm
    return Call(lambda: multiply(points, points.mT))


@implementation("fastcluster on the matrix", "fastcluster", "scipy")
def matrix_fastcluster(points: torch.Tensor, threads: int) -> Call:
    """squareform, single linkage; no critical edges"""
    import fastcluster
    from scipy.spatial.distance import squareform

    matrix = exact_matrix(points)

    def one(_: torch.Tensor) -> Array:
        links: Array = fastcluster.linkage(squareform(matrix, checks=False), method="single")
        return links

    return looped(points, threads, one, lambda links: links[:, 2])


@implementation("SciPy MST on the matrix", "scipy")
def matrix_scipy(points: torch.Tensor, threads: int) -> Call:
    """squareform, csgraph.minimum_spanning_tree; drops edges of length 0"""
    from scipy.spatial.distance import squareform

    matrix, tree_of = exact_matrix(points), scipy_trees(points.shape[0])
    return looped(
        points, threads, lambda _: tree_of(squareform(matrix, checks=False)), lambda tree: tree.data
    )


@implementation("matrix.sum()", role="yardstick")
def matrix_sum(points: torch.Tensor, threads: int) -> Call:
    """one read of the matrix"""
    matrix = torch.from_numpy(exact_matrix(points))
    return Call(lambda: matrix.sum())


FORWARD = (
    gudhi_rips,
    gudhi_array,
    gudhi_sklearn,
    ripser_py,
    giotto_ph,
    torch_topological,
    scipy_tree,
    scipy_linkage,
    sklearn_linkage,
    quitefastmst,
    cdist_fastcluster,
    pdist_fastcluster,
    gram,
)
LOW = (quitefastmst, pdist_fastcluster)
MATRIX = (matrix_fastcluster, matrix_scipy, matrix_sum)
