"""What must never enter a barcode: the padding of a batch, and coordinates that are no numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clouds import FLOATS, gaussian
from oracles import METRICS, same_bits

from tsloss_fast import h0_persistence, h0_persistence_varlen

GARBAGE = {
    "NaN": float("nan"),
    "infinity": float("inf"),
    "-infinity": float("-inf"),
    "zero": 0.0,
    "huge": 3e38,
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_never_enters(garbage: str, metric: str, dtype: type) -> None:
    n, d = 40, 9
    lengths = torch.tensor([0, 1, 2, 3, 17, 39, 40, 26])
    padded = torch.full(
        (8, n, d), GARBAGE[garbage], dtype=torch.from_numpy(np.zeros(0, dtype)).dtype
    )
    clouds = [torch.from_numpy(gaussian(k, d, seed=k, dtype=dtype)) for k in lengths.tolist()]
    for row, cloud in zip(padded, clouds, strict=True):
        row[: len(cloud)] = cloud
    padded.requires_grad_()
    h0 = h0_persistence(padded, metric, lengths)
    assert h0.deaths.shape == (8, n - 1)
    weights = torch.linspace(1, 2, n - 1, dtype=padded.dtype)
    (h0.deaths * weights).sum().backward()
    for k, cloud in enumerate(clouds):
        bars = max(len(cloud) - 1, 0)
        leaf = cloud.requires_grad_()
        alone = h0_persistence(leaf, metric)
        assert same_bits(alone, (h0.deaths[k, :bars], h0.edges[k, :bars]))
        assert (h0.deaths[k, bars:] == 0).all()
        assert (h0.edges[k, bars:] == -1).all()
        (alone.deaths * weights[:bars]).sum().backward()
        assert torch.equal(padded.grad[k, : len(cloud)], leaf.grad)
        assert (padded.grad[k, len(cloud) :] == 0).all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_lengths_may_be_any_integers_and_have_the_batch_shape(dtype: torch.dtype) -> None:
    points = torch.randn(2, 3, 6, 2, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([[6, 5, 4], [3, 1, 0]])
    expected = h0_persistence(points.flatten(0, 1), lengths=lengths.flatten())
    h0 = h0_persistence(points, lengths=lengths.to(dtype))
    assert same_bits(expected, (h0.deaths.flatten(0, 1), h0.edges.flatten(0, 1)))
    strided = h0_persistence(points, lengths=lengths.t().contiguous().t())
    assert same_bits(h0, strided)


@pytest.mark.parametrize("dtype", [">i4", ">u4", "<i2", "u1", "u8"])
def test_lengths_may_be_arrays_of_any_layout(dtype: str) -> None:
    points = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(1))
    expected = h0_persistence(points, lengths=torch.tensor([6, 2, 0]))
    array = np.array([0, 2, 6], dtype)[::-1]  # negative strides
    array.flags.writeable = False
    assert same_bits(h0_persistence(points, lengths=array), expected)
    if dtype == "u8":
        for unsigned in (torch.uint16, torch.uint32, torch.uint64):
            lengths = torch.tensor([6, 2, 0], dtype=unsigned)
            assert same_bits(h0_persistence(points, lengths=lengths), expected)
    offsets = np.array([0, 6, 18], dtype)
    flat = points.reshape(-1, 2)
    assert same_bits(
        h0_persistence_varlen(flat, offsets)[:2], h0_persistence_varlen(flat, [0, 6, 18])[:2]
    )


def test_one_cloud_takes_a_length_of_no_dimension() -> None:
    points = torch.from_numpy(gaussian(8, 3))
    h0 = h0_persistence(points, lengths=torch.tensor(5))
    alone = h0_persistence(points[:5])
    assert same_bits(alone, (h0.deaths[:4], h0.edges[:4]))
    assert (h0.deaths[4:] == 0).all()
    assert (h0.edges[4:] == -1).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_coordinate_is_an_error_that_names_cloud_and_point(
    bad: float, metric: str
) -> None:
    points = torch.randn(9, 11, 21, generator=torch.Generator().manual_seed(2))
    points[5, 7, 20] = bad
    points[8, 3, 0] = bad
    for check in (None, True):
        with pytest.raises(ValueError, match=r"point 7 of cloud 5\b"):
            h0_persistence(points, metric, check_finite=check)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_coordinate_is_looked_at(dtype: torch.dtype) -> None:
    for n, d in ((2, 1), (3, 17), (26, 64), (70, 3)):
        for place in (0, n * d // 2, n * d - 1):
            points = torch.from_numpy(gaussian(n, d)).to(dtype)
            points.view(-1)[place] = float("nan")
            with pytest.raises(ValueError, match=rf"point\D*{place // d}\b"):
                h0_persistence(points)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("n", [2, 30, 200])
def test_unchecked_a_non_finite_cloud_has_nan_deaths_and_harms_no_other(
    n: int, bad: float, metric: str, dtype: type
) -> None:
    clean = torch.from_numpy(np.stack([gaussian(n, 18, s, dtype) for s in range(4)]))
    points = clean.clone()
    points[2, n // 2, 5] = bad
    clean.requires_grad_()
    points.requires_grad_()
    expected = h0_persistence(clean, metric)
    h0 = h0_persistence(points, metric, check_finite=False)
    assert h0.deaths[2].isnan().all()
    others = [0, 1, 3]
    assert same_bits(
        (expected.deaths[others], expected.edges[others]), (h0.deaths[others], h0.edges[others])
    )
    expected.deaths.sum().backward()
    h0.deaths.sum().backward()
    assert torch.equal(points.grad[others], clean.grad[others])


def test_padding_may_be_nan_while_the_points_are_checked() -> None:
    points = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(3))
    points[:, 4:] = float("nan")
    lengths = torch.tensor([4, 4, 4])
    assert h0_persistence(points, lengths=lengths, check_finite=True).deaths.isfinite().all()
    with pytest.raises(ValueError, match=r"point 4 of cloud 1\b"):
        h0_persistence(points, lengths=torch.tensor([4, 5, 6]))


def test_a_zero_vector_under_cosine_is_an_error_that_names_cloud_and_point() -> None:
    points = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(4))
    points[2, 5] = 0
    with pytest.raises(ValueError, match=r"point 5 of cloud 2\b.*zero"):
        h0_persistence(points, "cosine")
    h0_persistence(points, "cosine", lengths=torch.tensor([6, 6, 5, 6]))


@pytest.mark.parametrize(("dtype", "far"), [(torch.float32, 3e38), (torch.float64, 1.7e308)])
def test_a_length_beyond_the_largest_float_is_an_error_or_unchecked_infinite(
    dtype: torch.dtype, far: float
) -> None:
    points = torch.tensor([[[0.0], [1.0], [2.0]], [[-far], [far], [far]]], dtype=dtype)
    with pytest.raises(ValueError, match=r"(?=.*cloud 1\b)(?=.*points 0 and [12]\b)(?=.*float)"):
        h0_persistence(points)
    h0 = h0_persistence(points, check_finite=False)
    assert h0.deaths.tolist() == [[1.0, 1.0], [0.0, float("inf")]]
    assert h0.edges.tolist() == [[[0, 1], [1, 2]], [[1, 2], [0, 1]]]


def test_a_length_that_overflows_outside_the_tree_harms_nothing() -> None:
    points = torch.tensor([[-3e38], [0.0], [3e38]])
    h0 = h0_persistence(points)
    assert torch.equal(h0.deaths, torch.tensor([3e38, 3e38]))
    assert h0.edges.tolist() == [[0, 1], [1, 2]]
