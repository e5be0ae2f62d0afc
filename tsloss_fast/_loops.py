"""Total 1-dimensional persistence through GUDHI, with gradients to the critical vertices."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _routing


def _critical_edges(points: Tensor, metric: str) -> Tensor:
    """(L, 2, 2) int64: for each finite H1 bar the edge that gives it birth and the edge that fills
    it."""
    try:
        import gudhi
    except ImportError as error:
        raise ImportError(
            "loops (H1 persistence) needs GUDHI; install it: pip install 'tsloss-fast[analysis]'"
        ) from error
    n = points.shape[0]
    pairs = torch.combinations(torch.arange(n, device="cpu"), 2)
    distances = torch.zeros((n, n), dtype=torch.float64, device="cpu")
    lengths = _routing.edge_lengths(points.double()[None], pairs[None], metric)[0]
    distances[pairs[:, 0], pairs[:, 1]] = lengths
    distances[pairs[:, 1], pairs[:, 0]] = lengths
    tree = gudhi.SimplexTree.create_from_array(distances.numpy())
    tree.expansion(2)
    tree.compute_persistence(homology_coeff_field=2)
    by_dimension = tree.flag_persistence_generators()[1]
    if len(by_dimension) == 0:
        return torch.empty((0, 2, 2), dtype=torch.int64, device="cpu")
    return torch.from_numpy(by_dimension[0].astype("int64")).reshape(-1, 2, 2)


def total_h1_persistence(clouds: Tensor, sizes: Tensor, metric: str) -> Tensor:
    """Sum of death - birth over the finite 1-dimensional Rips bars of each cloud, (B,).

    `clouds` (B, N, D) on any device, `sizes` (B,) valid points. The complex is built by GUDHI on
    the CPU in float64, O(n³) simplices a cloud: meant for prompts, not for vocabularies. The
    gradient of each bar reaches the four ends of its two critical edges (Gabrielsson et al., A
    Topology Layer for Machine Learning, AISTATS 2020).
    """
    totals = []
    for cloud, size in zip(clouds.unbind(0), sizes.tolist(), strict=True):
        points = cloud[:size]
        if size < 4:  # a loop needs four points
            totals.append(points.sum() * 0)
            continue
        critical = _critical_edges(points.detach().cpu(), metric).to(points.device)
        lengths = _routing.edge_lengths(points[None], critical.reshape(1, -1, 2), metric)
        birth, death = lengths.reshape(-1, 2).unbind(-1)
        totals.append((death - birth).sum())
    return torch.stack(totals) if totals else clouds.sum((1, 2))
