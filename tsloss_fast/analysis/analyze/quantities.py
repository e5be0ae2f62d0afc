"""The numbers of one cloud: ours, and those of the authors of TSLoss under their own definitions.

The names say whose they are, because the same word means two things:

| column        | bars that count                    | `bars` counts                           |
|---------------|------------------------------------|-----------------------------------------|
| `h0_…`        | all, those of length 0 as well     | the finite ones, N - 1                  |
| `h1_…`        | all; those of length 0 are none    | all are finite                          |
| `paper_…`     | GUDHI's, without length 0          | infinite ones too                       |
| `paper_cut_…` | the same, edges of at most a limit | infinite ones too, of which it has more |

The authors' numbers (arXiv 2602.16500, public analysis code) come from
`RipsComplex(points, max_edge_length=3).create_simplex_tree(max_dimension=2)` and its
`persistence(homology_coeff_field=2)`: how many bars there are in dimensions 0 and 1, the mean and
the maximum of the finite lifetimes, 0 without any, and the entropy of all finite lifetimes of both
dimensions together, natural logarithm, not normalised, 0 where their sum is at most 1e-9.

They come from one barcode without a cut: a cut at c leaves the bars born by then, and makes those
infinite that die after it. And `persistence()` gives no bars of the complex's own dimension: no
loops where no three points are within c of each other, nothing at all where no two are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tsloss_fast import h0_persistence
from tsloss_fast._batch import as_tensor, shape_error
from tsloss_fast._terminal import require
from tsloss_fast.analysis.analyze import COLUMNS, MAX_EDGE_LENGTH, MAX_POINTS
from tsloss_fast.analysis.record.measures import lifetime_measures

__all__ = ["COLUMNS", "MAX_EDGE_LENGTH", "MAX_POINTS", "measure", "rips_diagrams"]


def measure(
    points: Tensor | npt.NDArray[Any],
    *,
    h1: bool = True,
    max_points: int = MAX_POINTS,
    max_edge_length: float = MAX_EDGE_LENGTH,
) -> dict[str, Any]:
    """Return all numbers of one cloud, by the names of `COLUMNS`.

    Args:
        points: (N, D), a tensor or an array of any floating type; N and D may be 0.
        h1: whether dimension 1 is computed.
        max_points: dimension 1 of larger clouds is left out.
        max_edge_length: of `paper_cut_…`, in the units of the points.

    Returns:
        `COLUMNS`, in its order. Lengths are Euclidean, computed in float64; `h0_…` and `h1_…` are
        defined as in `tsloss_fast.barcode` and in the record of a run, and 0 without bars. Where
        dimension 1 was left out, everything that needs it is None, and `note` says so.

    Raises:
        TypeError: `points` is no dense tensor or array of floating numbers.
        ValueError: another shape, NaN or infinity, distances that overflow, or a negative
            `max_edge_length`.
        ImportError: GUDHI, scikit-learn or SciPy is needed for dimension 1 and not installed.

    O(N² D) time without H1; with it, O(N²) memory and up to O(N³) more time.

    Example:
        >>> numbers = measure(np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]]))
        >>> numbers["h0_bars"], numbers["paper_h0_bars"], numbers["paper_cut_h0_bars"]
        (2, 3, 3)
    """
    if not max_edge_length >= 0:
        raise ValueError(f"max_edge_length: expected a number >= 0, got {max_edge_length}")
    tensor = as_tensor(points, "points")
    if tensor.dim() != 2:
        raise shape_error("points", tensor.shape, "(N, D)")
    points = tensor.detach().to("cpu", torch.float64)
    bad = ~points.isfinite()
    if bad.any():
        first = int(bad.any(1).nonzero()[0])
        raise ValueError(
            f"{int(bad.sum())} of {points.numel()} coordinates are NaN or infinite, the first of "
            f"them in point {first}"
        )
    deaths = h0_persistence(points).deaths
    found: dict[str, Any] = {
        "n_points": points.shape[0],
        "n_features": points.shape[1],
        **_ours("h0_", deaths, rho=0.5),
        "h0_zero_bars": int((deaths == 0).sum()),
        "max_edge_length": float(max_edge_length),
    }
    finite, loops, triangle = deaths.numpy(), None, math.nan
    if not h1:
        found["note"] = "no H1: switched off"
    elif len(points) > max_points:
        found["note"] = f"no H1: more than {max_points} points"
    else:
        finite, loops, triangle = rips_diagrams(points.numpy())
        found |= _ours("h1_", torch.from_numpy(loops[:, 1] - loops[:, 0]))
    for prefix, cut in (("paper_", math.inf), ("paper_cut_", float(max_edge_length))):
        paper = _paper(len(points), finite, loops, triangle, cut)
        found |= {prefix + name: value for name, value in paper.items()}
    return {name: found.get(name) for name in COLUMNS}


def rips_diagrams(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return dimensions 0 and 1 of the Rips filtration of (N, D) float64 points, through GUDHI.

    Returns:
        The finite deaths of dimension 0 that are not 0, ascending; births and deaths (n, 2) of
        dimension 1; and the scale of the first triangle, infinite without one.
    """
    require("H1 through GUDHI", "analysis", "gudhi", "sklearn", "scipy")
    from gudhi.sklearn.rips_persistence import RipsPersistence
    from scipy.spatial.distance import pdist, squareform

    if len(points) < 2:
        return np.empty(0), np.empty((0, 2)), math.inf
    # Direct differences in float64, summed in the order in which GUDHI sums them.
    distances = squareform(pdist(points))
    if not np.isfinite(distances).all():
        raise ValueError("distances overflow: scale the points down")
    options = {"num_collapses": 0, "homology_coeff_field": 2}
    rips = RipsPersistence([0, 1], input_type="full distance matrix", **options)
    zero, one = rips.fit_transform([distances])[0]
    deaths = np.asarray(zero, np.float64).reshape(-1, 2)[:, 1]
    deaths = np.sort(deaths[np.isfinite(deaths) & (deaths > 0)])
    return deaths, np.asarray(one, np.float64).reshape(-1, 2), _first_triangle(distances)


def _first_triangle(distances: np.ndarray) -> float:
    """Return the smallest c for which three points are within c of each other, infinite without.

    Edges join in ascending order until one closes a triangle, which is after at most N²/4 edges; a
    step is O(N).
    """
    first, second = np.triu_indices(len(distances), 1)
    near = np.zeros(distances.shape, dtype=bool)
    for edge in np.argsort(distances[first, second], kind="stable"):
        i, j = first[edge], second[edge]
        if (near[i] & near[j]).any():
            return float(distances[i, j])
        near[i, j] = near[j, i] = True
    return math.inf


def _ours(prefix: str, lifetimes: Tensor, rho: float | None = None) -> dict[str, Any]:
    measures = lifetime_measures(lifetimes.unsqueeze(0), rho=rho)
    return {prefix + name: values[0] for name, values in measures.items()}


def _paper(
    size: int, deaths: np.ndarray, loops: np.ndarray | None, first_triangle: float, cut: float
) -> dict[str, Any]:
    deaths = deaths[deaths > 0]
    within = deaths[deaths <= cut]  # at the very cut an edge is in
    # Points that coincide are an edge of length 0. Without an edge the complex is of dimension 0,
    # and of its own dimension nothing is given.
    edge = len(within) > 0 or len(deaths) < size - 1
    infinite = 1 + len(deaths) - len(within) if edge else 0
    found: dict[str, Any] = {"h0_bars": len(within) + infinite} | _lifetimes("h0", within)
    if loops is not None:
        born = loops[loops[:, 0] <= cut] if first_triangle <= cut else loops[:0]
        finite = born[born[:, 1] <= cut]
        lifetimes = finite[:, 1] - finite[:, 0]
        found |= {"h1_bars": len(born)} | _lifetimes("h1", lifetimes)
        both = np.concatenate([within, lifetimes])
        shares = both / both.sum() if both.sum() > 1e-9 else np.ones(1)
        found["entropy"] = float(0.0 - (shares * np.log(shares)).sum())  # of one bar 0, not -0
    return found


def _lifetimes(name: str, lifetimes: np.ndarray) -> dict[str, float]:
    some = lifetimes if len(lifetimes) else np.zeros(1)
    return {f"{name}_mean_lifetime": float(some.mean()), f"{name}_max_lifetime": float(some.max())}
