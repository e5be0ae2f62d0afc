"""The gradient: routed through critical edges only, exact, and zero where points coincide."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from clouds import FAMILIES, FLOATS, WITHOUT_ANGLES, gaussian, grid, layouts, star
from oracles import METRICS, RELATIVE, TIGHT, Array, bits, edge_gradient, needs_long_double

from tsloss_fast import h0_persistence

pytestmark = needs_long_double


def gradient(
    points: torch.Tensor, g: torch.Tensor, metric: str = "euclidean"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient of sum(g * deaths), the deaths, and the edges."""
    leaf = points.detach().requires_grad_()
    h0 = h0_persistence(leaf, metric)
    (grad,) = torch.autograd.grad(h0.deaths, leaf, g)
    return grad, h0.deaths.detach(), h0.edges


def gradient_bound(points: Array, edges: Array, g: Array, deaths: Array, metric: str) -> Array:
    """Per point: what rounding may add up to over the edges that meet there.

    One relative error per term of each edge's derivative, and the coarseness of subnormal lengths.
    """
    x = points.astype(np.longdouble)
    sizes = np.ones(len(edges), np.longdouble)
    if metric == "sqeuclidean":
        sizes = 2 * np.abs(x[edges[:, 0]] - x[edges[:, 1]]).max(1, initial=0)
    elif metric == "cosine":
        shortest = np.sqrt((x * x).sum(1))
        sizes = 1 / np.minimum(shortest[edges[:, 0]], shortest[edges[:, 1]])
    elif metric == "euclidean":
        unit = np.longdouble(np.finfo(points.dtype).smallest_subnormal)
        sizes = sizes + unit / np.where(deaths > 0, deaths, 1) / RELATIVE[points.dtype]
    out = np.zeros(len(x), np.longdouble)
    for end in (0, 1):
        np.add.at(out, edges[:, end], sizes * np.abs(g))
    return 4 * RELATIVE[points.dtype] * out + np.finfo(points.dtype).smallest_subnormal


# Squares leave the range, and so does 1/|x|.
SCALED = set(product(("scales", "mixed_scales"), ("sqeuclidean", "cosine")))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("family", "metric"),
    [pair for pair in product(FAMILIES, METRICS) if pair not in WITHOUT_ANGLES | SCALED],
)
def test_the_gradient_is_the_formula_on_every_cloud(family: str, dtype: type, metric: str) -> None:
    failures, judged = [], 0
    for cloud in FAMILIES[family](dtype):
        x = cloud.points
        if metric == "cosine" and not x.any(1).all():
            continue  # no angle to a zero vector
        if metric == "sqeuclidean" and "times" in cloud.name:
            continue  # squares leave the range
        if metric == "manhattan" and float(np.abs(x).max(initial=0)) * x.shape[1] > float(
            np.finfo(dtype).max
        ):
            continue  # sums leave the range
        judged += 1
        g = np.linspace(-1, 2, max(len(x) - 1, 0)).astype(dtype)
        got, deaths, edges = (t.numpy() for t in gradient(*map(torch.from_numpy, (x, g)), metric))
        expected = edge_gradient(x, edges, g, metric)
        bound = gradient_bound(x, edges, g, deaths, metric)
        error = np.abs(got.astype(expected.dtype) - expected).max(1, initial=0)
        if not (np.isfinite(got).all() and (error <= bound).all()):
            k = int(np.argmax(np.where(np.isnan(error), np.inf, error / bound)))
            failures.append(f"{cloud.name}: point {k}, {got[k]} for {expected[k]}")
    assert not failures, f"{len(failures)} clouds fail:\n" + "\n".join(failures)
    assert judged


@pytest.mark.parametrize("metric", METRICS)
def test_first_and_second_derivatives_agree_with_finite_differences(metric: str) -> None:
    for n, d in ((2, 1), (3, 2), (7, 3), (12, 5)):
        points = torch.from_numpy(gaussian(n, d, seed=5, dtype=np.float64)).requires_grad_()

        def deaths(x: torch.Tensor) -> torch.Tensor:
            return h0_persistence(x, metric).deaths

        assert torch.autograd.gradcheck(deaths, points, **TIGHT)
        assert torch.autograd.gradgradcheck(deaths, points, **TIGHT)


@pytest.mark.parametrize("metric", METRICS)
def test_derivatives_with_lengths_agree_with_finite_differences(metric: str) -> None:
    points = torch.from_numpy(np.stack([gaussian(6, 3, s, np.float64) for s in range(4)]))
    lengths = torch.tensor([6, 0, 1, 4])

    def deaths(x: torch.Tensor) -> torch.Tensor:
        return h0_persistence(x, metric, lengths).deaths

    points.requires_grad_()
    assert torch.autograd.gradcheck(deaths, points, **TIGHT)
    assert torch.autograd.gradgradcheck(deaths, points, **TIGHT)
    assert torch.autograd.gradcheck(deaths, points, check_forward_ad=True, **TIGHT)


@pytest.mark.parametrize("metric", METRICS)
def test_float32_derivatives_agree_with_float64_finite_differences(metric: str) -> None:
    points, step = gaussian(9, 4, seed=6), 1e-5
    leaf = torch.from_numpy(points).requires_grad_()
    (h0_persistence(leaf, metric).deaths ** 2).sum().backward()
    numeric = np.zeros((9, 4))
    for index in np.ndindex(9, 4):
        value = []
        for sign in (1, -1):
            moved = points.astype(np.float64)
            moved[index] += sign * step
            value.append((h0_persistence(moved, metric).deaths ** 2).sum())
        numeric[index] = (value[0] - value[1]) / (2 * step)
    np.testing.assert_allclose(leaf.grad.numpy(), numeric, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("metric", METRICS)
def test_coincident_points_have_gradient_zero(metric: str, dtype: type) -> None:
    for n, d in ((2, 1), (40, 33), (40, 768), (70, 2)):
        same = torch.from_numpy(np.repeat(gaussian(1, d, dtype=dtype), n, axis=0))
        grad, _, _ = gradient(same, torch.ones(n - 1, dtype=same.dtype), metric)
        assert not grad.any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_parallel_vectors_have_gradient_zero_however_short(dtype: type) -> None:
    """The slope of an angle is of the order of 1 / |x|, which here leaves the range."""
    points = torch.from_numpy(np.array([[1], [3], [7]], dtype) * np.finfo(dtype).smallest_subnormal)
    found, deaths, _ = gradient(points, torch.ones(2, dtype=points.dtype), "cosine")
    assert not deaths.any()
    assert not found.any()


@pytest.mark.parametrize("metric", METRICS)
def test_higher_derivatives_at_coincident_points_are_finite(metric: str) -> None:
    points = torch.from_numpy(np.repeat(gaussian(5, 3, seed=1, dtype=np.float64), 3, axis=0))
    points.requires_grad_()
    h0 = h0_persistence(points, metric)
    (grad,) = torch.autograd.grad(h0.deaths.sum(), points, create_graph=True)
    (first_order,) = torch.autograd.grad(h0_persistence(points, metric).deaths.sum(), points)
    torch.testing.assert_close(grad, first_order, rtol=1e-12, atol=1e-12)
    (second,) = torch.autograd.grad(grad.square().sum(), points)
    assert second.isfinite().all()


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "manhattan"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_gradient_sums_to_zero_over_the_points(metric: str, dtype: type) -> None:
    for n, d in ((2, 3), (26, 17), (130, 8)):
        points = torch.from_numpy(gaussian(n, d, seed=2, dtype=dtype))
        g = torch.from_numpy(gaussian(n - 1, 1, seed=3, dtype=dtype)[:, 0])
        grad, _, _ = gradient(points, g, metric)
        bound = 4 * RELATIVE[np.dtype(dtype)] * grad.abs().sum(0).max()
        assert grad.sum(0).abs().max() <= bound


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_hub_of_a_star_gathers_the_gradient_of_every_ray(dtype: type) -> None:
    for rays in (63, 64, 65, 66, 127, 128, 129, 300):
        points = torch.from_numpy(star(rays).astype(dtype))
        grad, _, _ = gradient(points, torch.arange(1, rays + 1, dtype=points.dtype))
        assert torch.equal(grad[0], -torch.arange(1, rays + 1, dtype=points.dtype))
        assert torch.equal(grad[1:], torch.diag(torch.arange(1, rays + 1, dtype=points.dtype)))


def test_integer_triples_have_the_unit_vectors_one_computes_by_hand() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 16.0]])
    grad, deaths, edges = gradient(points, torch.tensor([10.0, 1.0]))
    assert deaths.tolist() == [5.0, 12.0]
    assert edges.tolist() == [[0, 1], [1, 2]]
    assert grad.tolist() == [[-6.0, -8.0], [6.0, 7.0], [0.0, 1.0]]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("metric", METRICS)
def test_threads_batches_and_layouts_change_no_bit_of_the_gradient(
    metric: str, dtype: type, threads: None
) -> None:
    for n, d in ((5, 3), (65, 64), (700, 20)):
        clouds = torch.from_numpy(np.stack([gaussian(n, d, s, dtype) for s in range(5)]))
        g = torch.from_numpy(gaussian(5, n - 1, seed=3, dtype=dtype))
        torch.set_num_threads(1)
        alone = [bits(gradient(x, y, metric)[0]) for x, y in zip(clouds, g, strict=True)]
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            together, _, _ = gradient(clouds, g, metric)
            assert [bits(x) for x in together] == alone
            backwards, _, _ = gradient(clouds.flip(0), g.flip(0), metric)
            assert [bits(x) for x in backwards.flip(0)] == alone
        for name, view in layouts(clouds[0]).items():
            assert bits(gradient(view, g[0], metric)[0]) == alone[0], name


def test_upstream_gradients_of_any_layout_are_read_right() -> None:
    points = torch.from_numpy(np.stack([gaussian(9, 3, s) for s in range(4)]))
    base = torch.from_numpy(gaussian(8, 4, seed=9)).t()
    assert not base.is_contiguous()
    assert torch.equal(gradient(points, base)[0], gradient(points, base.contiguous())[0])
    ones = torch.ones(())
    expanded, _, _ = gradient(points, ones.expand(4, 8))
    assert torch.equal(expanded, gradient(points, torch.ones(4, 8))[0])
    spread = torch.full((4, 16), float("nan"))
    spread[:, ::2] = base
    assert torch.equal(gradient(points, spread[:, ::2])[0], gradient(points, base)[0])


def test_a_single_death_reaches_its_two_points_alone() -> None:
    points = torch.from_numpy(gaussian(20, 4, seed=4))
    for k in range(19):
        g = torch.zeros(19)
        g[k] = 1
        grad, _, edges = gradient(points, g)
        assert grad.any(1).nonzero().flatten().tolist() == edges[k].tolist()


def test_the_gradient_equals_that_of_the_edge_lengths_in_plain_torch() -> None:
    points = torch.from_numpy(gaussian(30, 6, seed=7, dtype=np.float64)).requires_grad_()
    h0 = h0_persistence(points)
    ends = points[h0.edges]
    lengths = (ends[:, 0] - ends[:, 1]).norm(dim=1)
    torch.testing.assert_close(h0.deaths, lengths, rtol=1e-14, atol=0)
    weights = torch.linspace(1, 3, 29, dtype=torch.float64)
    (a,) = torch.autograd.grad((h0.deaths * weights).sum(), points)
    (b,) = torch.autograd.grad((lengths * weights).sum(), points)
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metric", METRICS)
def test_half_types_get_the_float32_gradient_in_their_own_type(
    metric: str, dtype: torch.dtype
) -> None:
    points = torch.from_numpy(gaussian(26, 19, seed=3)).to(dtype)
    g = torch.linspace(-1, 1, 25)
    grad, deaths, _ = gradient(points, g, metric)
    assert grad.dtype == dtype
    assert deaths.dtype == torch.float32
    assert torch.equal(grad, gradient(points.float(), g, metric)[0].to(dtype))


def test_the_gradient_of_padding_is_zero_whatever_comes_from_above() -> None:
    points = torch.from_numpy(np.stack([gaussian(6, 3, s) for s in range(3)])).requires_grad_()
    for above in (7.0, float("inf"), float("nan")):
        h0 = h0_persistence(points, lengths=torch.tensor([6, 3, 0]))
        g = torch.ones(3, 5)
        g[1, 2:] = above
        g[2] = above
        (grad,) = torch.autograd.grad(h0.deaths, points, g)
        assert grad.isfinite().all()
        assert not grad[1, 3:].any()
        assert not grad[2].any()
        assert torch.equal(grad[1, :3], gradient(points[1, :3], torch.ones(2))[0])


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (4, 0), (0, 5, 2), (3, 1, 2), (2, 0, 2)])
@pytest.mark.parametrize("metric", METRICS)
def test_empty_barcodes_are_differentiable(metric: str, shape: tuple[int, ...]) -> None:
    points = torch.ones(shape, requires_grad=True)
    h0 = h0_persistence(points, metric)
    assert h0.deaths.requires_grad
    (grad,) = torch.autograd.grad(h0.deaths.sum(), points, create_graph=True)
    assert grad.shape == shape
    assert not grad.any()


@pytest.mark.parametrize("metric", METRICS)
def test_a_shuffled_grid_full_of_ties_has_a_finite_gradient(metric: str) -> None:
    points = torch.from_numpy((grid(5, 3, seed=6) + 1).astype(np.float32))
    grad, _, edges = gradient(points, torch.ones(124), metric)
    expected = edge_gradient(points.numpy(), edges.numpy(), np.ones(124, np.float32), metric)
    np.testing.assert_allclose(grad.numpy(), expected, rtol=1e-5, atol=1e-5)
