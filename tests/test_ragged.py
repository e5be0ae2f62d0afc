"""Clouds of different sizes, one after the other: each is what it would be alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from clouds import catalogue, gaussian, rng
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from torch_threads import torch_threads

import tsloss_fast
from tsloss_fast import h0_persistence, h0_persistence_varlen

METRICS = ("euclidean", "sqeuclidean", "cosine", "manhattan")
SIZES = (5, 0, 1, 40, 2, 130, 3, 0, 17)


def packed(sizes: Any, d: int, seed: int = 0) -> tuple[torch.Tensor, list[int]]:
    points = torch.from_numpy(gaussian(int(sum(sizes)), d, seed))
    return points, np.cumsum([0, *sizes]).tolist()


def assert_each_alone(points: torch.Tensor, starts: list[int], result: Any, metric: str) -> None:
    deaths, edges, bars = result
    assert len(bars) == len(starts)
    for b, (begin, end) in enumerate(itertools.pairwise(starts)):
        alone = h0_persistence(points[begin:end], metric)
        part = slice(int(bars[b]), int(bars[b + 1]))
        assert torch.equal(deaths[part], alone.deaths)
        assert torch.equal(edges[part], alone.edges)
    assert int(bars[-1]) == len(deaths) == len(edges)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [1, 3, 16, 100])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_cloud_is_what_it_would_be_alone(metric: str, d: int, threads: int) -> None:
    points, starts = packed(SIZES, d)
    with torch_threads(threads):
        assert_each_alone(points, starts, h0_persistence_varlen(points, starts, metric), metric)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_catalogue_in_one_call(dtype: type) -> None:
    by_dimension: dict[int, list[np.ndarray]] = {}
    for cloud in catalogue(dtype):
        by_dimension.setdefault(cloud.points.shape[1], []).append(cloud.points)
    assert len(by_dimension) > 5
    for clouds in by_dimension.values():
        points = torch.from_numpy(np.concatenate(clouds))
        starts = np.cumsum([0, *map(len, clouds)]).tolist()
        assert_each_alone(points, starts, h0_persistence_varlen(points, starts), "euclidean")


def test_a_cloud_for_all_threads_beside_small_ones() -> None:
    sizes = (30, 1500, 2, 800, 0, 7)
    points, starts = packed(sizes, 96)
    with torch_threads(3):
        assert_each_alone(points, starts, h0_persistence_varlen(points, starts), "euclidean")


@settings(deadline=None, max_examples=80)
@given(
    sizes=st.lists(st.integers(0, 60), max_size=8),
    d=st.integers(0, 20),
    seed=st.integers(0, 2**32 - 1),
    integers=st.booleans(),
    metric=st.sampled_from(("euclidean", "sqeuclidean", "manhattan")),
    threads=st.integers(1, 3),
)
def test_any_sizes(
    sizes: list[int], d: int, seed: int, integers: bool, metric: str, threads: int
) -> None:
    n = sum(sizes)
    x = rng(seed).integers(-2, 3, (n, d)) if integers else rng(seed).standard_normal((n, d))
    points = torch.from_numpy(x.astype(np.float32))
    starts = np.cumsum([0, *sizes]).tolist()
    with torch_threads(threads):
        assert_each_alone(points, starts, h0_persistence_varlen(points, starts, metric), metric)


def gradient_of(points: torch.Tensor, deaths: Any) -> torch.Tensor:
    weights = torch.linspace(0.5, 1.5, len(deaths), dtype=deaths.dtype)
    (gradient,) = torch.autograd.grad((deaths * weights).sum(), points)
    return gradient


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_gradient_is_that_of_each_cloud_alone(metric: str, threads: int) -> None:
    points, starts = packed(SIZES, 33)
    x, y = points.clone().requires_grad_(), points.clone().requires_grad_()
    with torch_threads(threads):
        found = gradient_of(x, h0_persistence_varlen(x, starts, metric).deaths)
    alone = torch.cat(
        [h0_persistence(y[a:b], metric).deaths for a, b in itertools.pairwise(starts)]
    )
    torch.testing.assert_close(found, gradient_of(y, alone), rtol=0, atol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_gradcheck(metric: str) -> None:
    points, starts = packed((4, 0, 1, 6), 3, seed=2)
    x = points.double().requires_grad_()

    def deaths(p: torch.Tensor) -> torch.Tensor:
        return h0_persistence_varlen(p, starts, metric).deaths

    assert torch.autograd.gradcheck(deaths, x)
    assert torch.autograd.gradgradcheck(deaths, x)
    (gradient,) = torch.autograd.grad(deaths(x).sum(), x)
    transformed = torch.func.grad(lambda p: deaths(p).sum())(x.detach())
    torch.testing.assert_close(transformed, gradient)


def test_nothing_at_all() -> None:
    for starts in ([0], [0, 0], [0, 0, 0]):
        x = torch.zeros((0, 3), requires_grad=True)
        deaths, edges, bars = h0_persistence_varlen(x, starts)
        assert deaths.shape == (0,)
        assert edges.shape == (0, 2)
        assert bars.tolist() == [0] * len(starts)
        deaths.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == (0, 3)


def test_numpy_in_numpy_out() -> None:
    points, starts = packed((4, 7), 3)
    for offsets in (starts, np.array(starts, np.uint32), torch.tensor(starts, dtype=torch.int32)):
        result = h0_persistence_varlen(points.numpy(), offsets)
        assert all(isinstance(part, np.ndarray) for part in result)
        np.testing.assert_array_equal(result.deaths, h0_persistence_varlen(points, starts).deaths)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_widened(dtype: torch.dtype) -> None:
    points, starts = packed((4, 7), 3)
    x = points.to(dtype).requires_grad_()
    result = h0_persistence_varlen(x, starts)
    assert result.deaths.dtype is torch.float32
    assert_each_alone(x.detach(), starts, [r.detach() for r in result], "euclidean")
    assert gradient_of(x, result.deaths).dtype is dtype


def test_any_strides() -> None:
    points, starts = packed((4, 7), 8)
    found = h0_persistence_varlen(points.repeat(1, 2)[:, ::2].T.contiguous().T, starts)
    assert torch.equal(
        found.deaths, h0_persistence_varlen(points.repeat(1, 2)[:, ::2].contiguous(), starts).deaths
    )


@pytest.mark.parametrize(
    ("offsets", "kind", "words"),
    [
        ([1, 11], ValueError, "begin with 0 and to end with 11"),
        ([0, 10], ValueError, "got 0 and 10"),
        ([0, 7, 5, 11], ValueError, "got 7 and then 5 for cloud 1"),
        ([0.0, 11.0], TypeError, "expected integers, got float64"),
        (torch.tensor([0.0, 11.0]), TypeError, "expected integers, got torch.float32"),
        ([], ValueError, r"expected shape \(B\+1,\)"),
        (torch.tensor([], dtype=torch.int64), ValueError, r"expected shape \(B\+1,\)"),
        ([[0, 11]], ValueError, r"expected shape \(B\+1,\)"),
    ],
)
def test_offsets_that_do_not_fit(offsets: Any, kind: type[Exception], words: str) -> None:
    points, _ = packed((4, 7), 3)
    with pytest.raises(kind, match=words):
        h0_persistence_varlen(points, offsets)


def test_other_bad_arguments() -> None:
    points, starts = packed((4, 7), 3)
    with pytest.raises(ValueError, match="expected one of"):
        h0_persistence_varlen(points, starts, metric="chebyshev")
    with pytest.raises(ValueError, match=r"expected shape \(T, D\)"):
        h0_persistence_varlen(points[None], starts)
    with pytest.raises(TypeError, match="expected float16"):
        h0_persistence_varlen(points.long(), starts)


def test_a_bad_cloud_is_named_and_touches_no_other() -> None:
    points, starts = packed((4, 7, 5), 3)
    bad = points.clone()
    bad[5, 1] = torch.inf
    with pytest.raises(ValueError, match="point 1 of cloud 1 of 3 contains NaN"):
        h0_persistence_varlen(bad, starts)
    found = h0_persistence_varlen(bad, starts, check_finite=False)
    good = h0_persistence_varlen(points, starts)
    assert found.deaths[3:9].isnan().all()
    assert torch.equal(found.deaths[:3], good.deaths[:3])
    assert torch.equal(found.deaths[9:], good.deaths[9:])


def jagged(points: torch.Tensor, starts: list[int]) -> torch.Tensor:
    return torch.nested.nested_tensor_from_jagged(points, torch.tensor(starts))


@pytest.mark.parametrize("kind", ["list", "tensor", "array", "jagged"])
def test_offsets_are_read_under_transforms_and_modes(kind: str) -> None:
    points, starts = packed((4, 7), 3)
    offsets = {"tensor": torch.tensor(starts), "array": np.array(starts)}.get(kind, starts)

    def energy(x: torch.Tensor) -> torch.Tensor:
        if kind == "jagged":
            return h0_persistence(jagged(x, starts)).deaths.values().sum()
        return h0_persistence_varlen(x, offsets).deaths.sum()

    leaf = points.clone().requires_grad_()
    (expected,) = torch.autograd.grad(energy(leaf), leaf)
    if kind != "jagged":  # torch has no nested tensors under these
        torch.testing.assert_close(torch.func.grad(energy)(points), expected)
        traced = torch.jit.trace(energy, points)
        torch.testing.assert_close(torch.autograd.grad(traced(leaf), leaf)[0], expected)
    with FlopCounterMode(display=False):
        torch.testing.assert_close(torch.autograd.grad(energy(leaf), leaf)[0], expected)


def test_a_jagged_tensor() -> None:
    points, starts = packed((4, 1, 7, 12), 3)
    x = points.clone().requires_grad_()
    deaths, edges = h0_persistence(jagged(x, starts))
    assert deaths.is_nested
    assert edges.is_nested
    assert deaths.layout is edges.layout is torch.jagged
    expected = h0_persistence_varlen(points, starts)
    assert torch.equal(deaths.values(), expected.deaths)
    assert torch.equal(deaths.offsets(), expected.offsets)
    assert torch.equal(edges.values(), expected.edges)
    y = points.clone().requires_grad_()
    torch.testing.assert_close(
        gradient_of(x, deaths.values()),
        gradient_of(y, h0_persistence_varlen(y, starts).deaths),
    )
    for part, begin, end in zip(deaths.unbind(), starts, starts[1:], strict=False):
        assert torch.equal(part, h0_persistence(points[begin:end]).deaths)


def test_jagged_tensors_that_are_refused() -> None:
    points, starts = packed((4, 7), 3)
    with pytest.raises(ValueError, match="leave them out"):
        h0_persistence(jagged(points, starts), lengths=[3, 3])
    with pytest.raises(TypeError, match=r"layout=torch\.jagged"):
        h0_persistence(torch.nested.nested_tensor([points[:4], points[4:]]))
    transposed = jagged(points, starts).transpose(1, 2)
    with pytest.raises(ValueError, match="ragged in its second"):
        h0_persistence(transposed)


def test_it_is_exported() -> None:
    assert tsloss_fast.h0_persistence_varlen is h0_persistence_varlen


def test_offsets_are_the_callers_to_change() -> None:
    points, starts = packed(SIZES, 3)
    x = points.requires_grad_()
    offsets = np.array(starts)
    result = h0_persistence_varlen(x, torch.from_numpy(offsets))
    (expected,) = torch.autograd.grad(result.deaths.sum(), x, retain_graph=True)
    offsets[1:] = 1 << 40
    result.offsets.fill_(-1)
    (found,) = torch.autograd.grad(result.deaths.sum(), x)
    assert torch.equal(found, expected)
