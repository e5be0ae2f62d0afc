"""The merges behind a barcode."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _ops
from ..functional import H0Persistence


def single_linkage(h0: Any) -> Any:
    """Return the dendrogram as SciPy's linkage matrix, from the result of `h0_persistence`.

    Args:
        h0: deaths (..., N-1) and edges (..., N-1, 2) of `h0_persistence`; jagged ones; or those of
            `h0_persistence_varlen`.

    Returns:
        (..., N-1, 4) float64; jagged (B, (n-1)*, 4) for a jagged result; (M, 4) for that of
        `h0_persistence_varlen`, whose offsets separate the clouds. An array for arrays. The columns
        are the two merged clusters (smaller id first; the points are 0 … N-1, the k-th merge makes
        cluster N+k), the height, and the size of the result. Heights carry the gradient of the
        deaths. `scipy.cluster.hierarchy` takes one cloud's matrix, detached and on the CPU, as it
        is.

    Raises:
        ValueError: for padded clouds: slice each to its own n - 1 bars first.

    O(N log N). Source: Gower & Ross, Minimum Spanning Trees and Single Linkage Cluster Analysis,
    Applied Statistics 18, 1969.

    Example:
        >>> from tsloss_fast import h0_persistence
        >>> h0 = h0_persistence(torch.tensor([[0.0], [1.0], [3.0]]))
        >>> single_linkage(h0)
        tensor([[0., 1., 1., 2.],
                [2., 3., 2., 3.]], dtype=torch.float64)
    """
    deaths, edges, *offsets = h0
    if isinstance(deaths, np.ndarray):
        found = single_linkage((torch.from_numpy(deaths), torch.from_numpy(edges), *offsets))
        return found.numpy()
    if offsets:
        return _of_each_cloud(deaths, edges, offsets[0])
    if deaths.is_nested:
        matrices = _of_each_cloud(deaths.values(), edges.values(), deaths.offsets())
        return torch.nested.nested_tensor_from_jagged(matrices, deaths.offsets())
    return _matrices(H0Persistence(deaths, edges))


def _of_each_cloud(deaths: Tensor, edges: Tensor, offsets: Any) -> Tensor:
    """The matrices (M, 4) of clouds whose bars stand in a row."""
    sizes = torch.as_tensor(offsets, device="cpu").diff().tolist()
    clouds = zip(deaths.split(sizes), edges.split(sizes), strict=True)
    matrices = [_matrices(H0Persistence(*cloud)) for cloud in clouds]
    return torch.cat(matrices) if matrices else deaths.new_empty((0, 4), dtype=torch.float64)


def _matrices(h0: H0Persistence) -> Tensor:
    deaths, edges = h0
    *batch, bars = deaths.shape
    merges = _ops.single_linkage(edges.to("cpu", torch.int64).reshape(math.prod(batch), bars, 2))
    columns = merges.reshape(*batch, bars, 3).to(deaths.device, torch.float64)
    first, second, size = columns.unbind(-1)
    return torch.stack([first, second, deaths.to(torch.float64), size], dim=-1)
