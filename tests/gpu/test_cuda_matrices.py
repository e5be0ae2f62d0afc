"""The kernels of distance matrices on the host executor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clouds import gaussian
from cuda_host import HostKernels
from native_builds import HAVE_SOURCES

from tsloss_fast import h0_persistence_from_distances

pytestmark = pytest.mark.skipif(not HAVE_SOURCES, reason="needs the source tree and g++")


def matrices(n: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    x = torch.from_numpy(gaussian(2 * n, 3, seed=seed).reshape(2, n, 3)).to(dtype)
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


@pytest.mark.parametrize("small", [2, 512])
@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 64, 65, 130])
def test_distance_matrices(kernels: HostKernels, n: int, small: int) -> None:
    for dtype in (torch.float32, torch.float64):
        d = matrices(n, dtype)
        largest = torch.finfo(dtype).max / 16
        noise = 1e-6 if dtype is torch.float32 else 1e-11
        for m in (d, d.triu() + d.tril() * (1 + noise), d.round(), d * largest, d / largest):
            got = kernels.from_distances(m, small=small)
            expected = h0_persistence_from_distances(m)
            assert torch.equal(got.deaths, expected.deaths)
            assert torch.equal(got.edges, expected.edges)
            assert (got.findings[:, 0] == 0).all()


@pytest.mark.parametrize("small", [2, 512])
@pytest.mark.parametrize("n", [2, 33, 70])
def test_components_that_no_finite_distance_joins_have_infinite_deaths(
    kernels: HostKernels, n: int, small: int
) -> None:
    for dtype in (torch.float32, torch.float64):
        d = matrices(n, dtype).round()
        for far in (d > 3, d > 1, d >= 0):
            graph = d.masked_fill(far & ~torch.eye(n, dtype=torch.bool), torch.inf)
            got = kernels.from_distances(graph, small=small)
            expected = h0_persistence_from_distances(graph, check_finite=False)
            assert torch.equal(got.deaths, expected.deaths)
            assert torch.equal(got.edges, expected.edges)
            for c in range(2):
                first = graph[c].isinf().nonzero()[:1].flatten().tolist()
                assert got.findings[c].tolist() == ([1, *first] if first else [0, -1, -1])


@pytest.mark.parametrize("small", [2, 512])
def test_infinity_on_the_diagonal_or_on_one_side_is_no_missing_edge(
    kernels: HostKernels, small: int
) -> None:
    d = matrices(40, torch.float32)
    for i, j, found in ((3, 3, [5, 3, 3]), (2, 30, [6, 2, 30]), (30, 2, [6, 2, 30])):
        bad = d.clone()
        bad[1, 35, 36] = bad[1, 36, 35] = torch.inf  # named only where nothing else is wrong
        bad[1, i, j] = torch.inf
        got = kernels.from_distances(bad, small=small)
        assert got.findings.tolist() == [[0, -1, -1], found]
        assert got.deaths[1].isnan().all()


@pytest.mark.parametrize("small", [2, 512])
def test_what_is_wrong_with_a_matrix(kernels: HostKernels, small: int) -> None:
    d = matrices(70, torch.float32)
    for value, i, j, found in (
        (torch.nan, 40, 3, [1, 40, 3]),
        (-torch.inf, 3, 40, [4, 3, 40]),
        (0.5, 5, 5, [5, 5, 5]),
        (-1.0, 60, 1, [4, 60, 1]),
        (99.0, 1, 60, [6, 1, 60]),
        (99.0, 60, 1, [6, 1, 60]),
    ):
        bad = d.clone()
        bad[1, i, j] = value
        got = kernels.from_distances(bad, small=small)
        assert got.findings.tolist() == [[0, -1, -1], found]
        assert got.deaths[1].isnan().all()
        assert torch.equal(got.deaths[0], h0_persistence_from_distances(d).deaths[0])
        with pytest.raises(ValueError, match=rf"entry \({found[1]}, {found[2]}\) of cloud 1"):
            h0_persistence_from_distances(bad)
        # NaN comes first, and the padding is never looked at.
        bad[1, 69, 68] = torch.nan
        got = kernels.from_distances(bad, small=small)
        assert got.findings[1].tolist() == [1, *((i, j) if np.isnan(value) else (69, 68))]
        assert kernels.from_distances(bad, [70, 0], small=small).findings[1, 0] == 0
