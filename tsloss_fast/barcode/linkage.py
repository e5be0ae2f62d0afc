"""The merges behind a barcode."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import _ops_cpu
from ..functional import H0Persistence


def single_linkage(h0: H0Persistence) -> Tensor:
    """The dendrogram as SciPy's linkage matrix, (..., N-1, 4) float64, from `h0_persistence`'s
    result.

    Columns: the two merged clusters (smaller id first; the points are 0 … N-1, the k-th merge makes
    cluster N+k), the height, the size of the result. Heights carry the gradient of the deaths.
    O(N log N). `scipy.cluster.hierarchy` takes one cloud's matrix, detached and on the CPU, as it
    is.

    Raises:
        ValueError: for padded clouds: slice each to its own n - 1 bars first.

    Source: Gower & Ross, Minimum Spanning Trees and Single Linkage Cluster Analysis, Applied
    Statistics 18, 1969.

    Example:
        >>> from tsloss_fast import h0_persistence
        >>> h0 = h0_persistence(torch.tensor([[0.0], [1.0], [3.0]]))
        >>> single_linkage(h0)
        tensor([[0., 1., 1., 2.],
                [2., 3., 2., 3.]], dtype=torch.float64)
    """
    deaths, edges = torch.as_tensor(h0[0]), torch.as_tensor(h0[1])
    if bool((edges < 0).any()):
        raise ValueError(
            "single_linkage: the clouds are padded (edges contain -1); expected whole clouds. "
            "Slice each one to its lengths[b] - 1 bars first"
        )
    bars = deaths.shape[-1]
    merges = _ops_cpu.linkage_merges(edges.reshape(math.prod(deaths.shape[:-1]), bars, 2))
    columns = merges.reshape(*deaths.shape, 3).to(deaths.device, torch.float64)
    first, second, size = columns.unbind(-1)
    return torch.stack([first, second, deaths.to(torch.float64), size], dim=-1)
