"""The error bound of the low-precision filter: no pair is lost whose distance is within the bound.

`_ops_cpu.filter_keeps(points, factor)` gives every pair its own squared distance times `factor` as
the bound. At 1 all pairs must be kept, or a tree edge could be lost; well below 1 almost none
should be, or the filter would be of no use, and this test could not fail.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsloss_fast import _core, _ops_cpu


@pytest.fixture(scope="module", params=_core.supported_isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


def assert_nothing_is_lost(points: np.ndarray) -> None:
    for dtype in (np.float32, np.float64):
        x = torch.from_numpy(np.ascontiguousarray(points.astype(dtype)))
        kept = _ops_cpu.filter_keeps(x)
        assert kept.all(), (~kept).nonzero()[:5].tolist()


@pytest.mark.parametrize("d", [1, 3, 16, 17, 64, 200, 768, 3000])
def test_the_filter_loses_nothing_and_filters(d: int) -> None:
    points = np.random.default_rng(d).standard_normal((60, d))
    assert_nothing_is_lost(points)
    x = torch.from_numpy(points.astype(np.float32))
    off_diagonal = ~torch.eye(60, dtype=torch.bool)
    assert _ops_cpu.filter_keeps(x, 0.25)[off_diagonal].float().mean() < 0.2
    if d >= 16:
        assert not _ops_cpu.filter_keeps(x, 0.5)[off_diagonal].any()


def adversarial(seed: int, n: int, d: int, kind: str) -> np.ndarray:
    r = np.random.default_rng(seed)
    x = r.standard_normal((n, d))
    if kind == "nearly equal rows":
        return x[:1] + 10.0 ** r.uniform(-7, -1) * x
    if kind == "one huge coordinate a row":
        x[np.arange(n), r.integers(0, d, n)] *= 10.0 ** r.uniform(1, 8)
        return x
    if kind == "one huge row":
        x[r.integers(n)] *= 10.0 ** r.uniform(1, 12)
        return x
    if kind == "largest residue":
        # Every coordinate half way between two codes, and one that sets the scale: the row's
        # residue is as large as it can be, and all residues point the same way.
        steps = 127 if r.integers(2) else 16000
        x = (r.integers(-steps + 1, steps - 1, (n, d)) + 0.5) / steps
        x[:, 0] = 1.0
        x[1::2] = x[::2][: n // 2]
        x[1::2, 1:] += 1.0 / steps * r.choice([-1, 1], (n // 2, d - 1))
        return x - x.mean(0) * r.integers(2)
    if kind == "opposite residues":
        base = r.integers(-100, 100, d) / 127.0
        signs = np.where(np.arange(n) % 2, 1, -1)[:, None]
        return base + signs * (0.5 / 127) * r.uniform(0.9, 1, (n, d))
    if kind == "far offset":
        return x + 10.0 ** r.uniform(0, 6)
    if kind == "heavy tails":
        return np.clip(r.standard_t(0.7, (n, d)), -1e15, 1e15)
    if kind == "extreme scale":
        return x * 10.0 ** r.uniform(-15, 15)
    return r.integers(-2, 3, (n, d)).astype(float)  # many exact ties


KINDS = (
    "nearly equal rows",
    "one huge coordinate a row",
    "one huge row",
    "largest residue",
    "opposite residues",
    "far offset",
    "heavy tails",
    "extreme scale",
    "ties",
)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 60),
    d=st.sampled_from([2, 5, 16, 31, 64, 130, 400]),
    kind=st.sampled_from(KINDS),
)
def test_no_cloud_makes_the_filter_lose_a_pair(seed: int, n: int, d: int, kind: str) -> None:
    assert_nothing_is_lost(adversarial(seed, n, d, kind))


def test_dimensions_above_the_limit_of_byte_codes_are_safe() -> None:
    points = np.random.default_rng(0).standard_normal((9, 70000))
    assert_nothing_is_lost(points)
    assert_nothing_is_lost(np.sign(points))
