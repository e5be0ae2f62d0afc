"""Numbers at the ends of their range, as a fuzzer found them (tests/native/findings.md)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clouds import gaussian
from oracles import METRICS, bits

from tsloss_fast import TSLoss, _core, h0_persistence, h0_persistence_from_distances

pytestmark = pytest.mark.usefixtures("core_defaults")


def test_angles_whose_squares_are_lost_are_zero_on_every_path() -> None:
    """Unit vectors that differ by 1e-200: their distance squared is 0 in float64."""
    points = gaussian(1100, 64, dtype=np.float64)
    points[:, 0] = 0
    points[1:5] = points[0]
    points[1:4, 0] = [3e-200, 1e-200, 2e-200]
    found = {}
    for path in range(4):  # by itself the core takes the large path
        _core.set_overrides(path)
        found[path] = h0_persistence(points, "cosine")
    units = points / np.linalg.norm(points, axis=1, keepdims=True)
    i, j = found[0].edges.T
    own = ((units[i] - units[j]) ** 2).sum(1) / 2
    np.testing.assert_allclose(found[0].deaths, own, rtol=1e-12)
    assert found[0].edges[:4].tolist() == [[0, 1], [0, 2], [0, 3], [0, 4]]
    for path in range(1, 4):
        assert found[path].deaths.tobytes() == found[0].deaths.tobytes()
        assert found[path].edges.tobytes() == found[0].edges.tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 4])
def test_the_gradient_of_a_cloud_with_a_zero_vector_is_not_a_number(
    dtype: torch.dtype, threads: int
) -> None:
    """It came from memory that nobody had written to."""
    torch.set_num_threads(threads)
    points = torch.randn(2, 70, 40, dtype=dtype, generator=torch.Generator().manual_seed(0))
    points[0, 3] = 0
    leaf = points.requires_grad_()
    h0_persistence(leaf, "cosine", check_finite=False).deaths.sum().backward()
    assert leaf.grad[0].isnan().all()
    assert leaf.grad[1].isfinite().all()


@pytest.mark.parametrize(("dtype", "far"), [(torch.float32, 1e37), (torch.float64, 1e307)])
def test_a_small_gradient_of_a_long_bar_keeps_its_digits(dtype: torch.dtype, far: float) -> None:
    """The weight of a difference, gradient / length, is below the least normal number."""
    points = torch.tensor([[0.0, 0.0], [0.6 * far, 0.8 * far]], dtype=dtype)
    (gradient,) = torch.autograd.grad(
        h0_persistence(leaf := points.requires_grad_()).deaths,
        leaf,
        torch.full((1,), 1e-5, dtype=dtype),
    )
    expected = torch.tensor([[-0.6e-5, -0.8e-5], [0.6e-5, 0.8e-5]], dtype=dtype)
    torch.testing.assert_close(gradient, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_huge_gradient_of_a_squared_bar_has_no_infinity_where_points_agree(
    dtype: torch.dtype,
) -> None:
    """Twice the gradient is infinite, and infinity times 0 is no number."""
    points = torch.tensor([[0.0, 1.0, 0.0], [0.25, 1.0, 0.0]], dtype=dtype)
    huge = torch.full((1,), torch.finfo(dtype).max, dtype=dtype)
    deaths = h0_persistence(leaf := points.requires_grad_(), "sqeuclidean").deaths
    (gradient,) = torch.autograd.grad(deaths, leaf, huge)
    half = float(huge / 2)
    assert gradient.tolist() == [[-half, 0, 0], [half, 0, 0]]


def fused_loss(
    deaths: torch.Tensor,
    lengths: torch.Tensor | None = None,
    loss: tuple[float, float, float] = (1.0, 1.0, 0.5),
) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor], int]:
    """The exact loss of deaths (B, M) and its two terms, their derivatives, and the number of
    coincident clouds. `loss`: the weights of the terms, and rho.

    The core gives the derivatives at the points: here at the tips of a star, of which each edge has
    the slope 1 under the Manhattan metric.
    """
    batch, bars = deaths.shape
    points = torch.cat([deaths.new_zeros(batch, 1, 1), deaths.new_ones(batch, bars, 1)], 1)
    tips = torch.arange(1, bars + 1)
    star = torch.stack([torch.zeros_like(tips), tips], -1).expand(batch, bars, 2).contiguous()
    manhattan, one = METRICS.index("manhattan"), deaths.new_ones(())
    kept, values, coincident, _ = _core.fused_loss(
        manhattan, points, lengths, deaths, star, *loss, terms=True, threads=1
    )
    grads = [
        kept.gradient(points, (None,) * k + (one,) + (None,) * (2 - k), threads=1) for k in range(3)
    ]
    return values, [grad[:, 1:, 0].contiguous() for grad in grads], coincident


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-200, 1e307])
def test_the_loss_of_deaths_at_the_ends_of_float64_is_that_of_others(scale: float) -> None:
    deaths = torch.tensor([[1.0, 2.0, 2.0, 3.0, 8.0]], dtype=torch.float64)
    (expected, *_), (slopes, *_), _ = fused_loss(deaths)
    (loss, *_), (gradient, *_), coincident = fused_loss(deaths * scale)
    assert coincident == 0
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
    if scale > 1e-300:
        torch.testing.assert_close(gradient, slopes / scale, rtol=1e-12, atol=0)
    else:
        assert not gradient.isnan().any()


def test_the_loss_of_deaths_that_are_no_numbers_is_none() -> None:
    for bad in (torch.nan, torch.inf):
        deaths = torch.full((1, 3), bad)
        (loss, *_), _, coincident = fused_loss(deaths)
        assert loss.isnan()
        assert coincident == 0


def test_a_scale_changes_no_bit_of_the_loss() -> None:
    points = torch.from_numpy(gaussian(20, 30))
    values = {bits(TSLoss()(points * 2.0**k)) for k in (-60, -3, 0, 5, 60)}
    assert len(values) == 1


def test_the_loss_of_an_array_is_refused() -> None:
    with pytest.raises(TypeError, match=r"torch.Tensor, got ndarray; .*torch.as_tensor"):
        TSLoss()(np.zeros((3, 2)))


def test_a_matrix_may_begin_anywhere() -> None:
    """Vectors of its rows are not aligned, which a compiler has to be told."""
    for n in (9, 33, 300):
        for dtype in (torch.float32, torch.float64):
            d = torch.rand(n, n, dtype=dtype, generator=torch.Generator().manual_seed(n))
            d = (d + d.mT).fill_diagonal_(0)
            room = torch.empty(n * n + 1, dtype=dtype)[1:].view(n, n)
            room.copy_(d)
            found = h0_persistence_from_distances(room[None])
            expected = h0_persistence_from_distances(d[None])
            assert torch.equal(found[1], expected[1])
