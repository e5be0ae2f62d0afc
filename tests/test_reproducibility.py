"""The same points give the same bits: for any thread count, batch, memory layout and container."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clouds import FLOATS, gaussian, grid, huge_stride
from clouds import layouts as memory_layouts
from oracles import METRICS, same_bits

from tsloss_fast import h0_persistence


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("metric", METRICS)
def test_threads_and_repetition_change_no_bit(metric: str, dtype: type, threads: None) -> None:
    clouds = [torch.from_numpy(gaussian(n, 19, dtype=dtype)) for n in (33, 400, 1300)]
    clouds.append(torch.from_numpy(np.stack([gaussian(40, 19, s, dtype) for s in range(64)])))
    clouds.append(torch.from_numpy(grid(8, 3, 1).astype(dtype) + dtype(1)))
    for points in clouds:
        torch.set_num_threads(1)
        alone = h0_persistence(points, metric)
        for count in (2, 3, 1, 2):
            torch.set_num_threads(count)
            assert same_bits(alone, h0_persistence(points, metric)), f"{count} threads"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [2, 5, 17, 64, 65, 130])
def test_the_position_in_a_batch_changes_no_bit(n: int, metric: str, dtype: type) -> None:
    clouds = [torch.from_numpy(gaussian(n, 33, seed, dtype)) for seed in range(7)]
    alone = [h0_persistence(cloud, metric) for cloud in clouds]
    for shift in range(7):
        order = [(k + shift) % 7 for k in range(7)]
        together = h0_persistence(torch.stack([clouds[k] for k in order]), metric)
        for place, k in enumerate(order):
            assert same_bits(alone[k], (together.deaths[place], together.edges[place]))


def test_batch_dimensions_of_any_number_are_kept() -> None:
    points = torch.randn(2, 3, 4, 9, 5, generator=torch.Generator().manual_seed(0))
    h0 = h0_persistence(points)
    assert h0.deaths.shape == (2, 3, 4, 8)
    assert h0.edges.shape == (2, 3, 4, 8, 2)
    flat = h0_persistence(points.flatten(0, 2))
    assert same_bits((h0.deaths.flatten(0, 2), h0.edges.flatten(0, 2)), flat)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "d"), [(5, 3), (26, 17), (64, 64), (100, 16)])
def test_the_memory_layout_changes_no_bit(n: int, d: int, metric: str, dtype: type) -> None:
    points = torch.from_numpy(gaussian(n, d, seed=2, dtype=dtype))
    expected = h0_persistence(points.clone(), metric)
    for name, view in memory_layouts(points).items():
        assert torch.equal(view, points)
        assert same_bits(expected, h0_persistence(view, metric)), name
    columns = torch.stack([points, points + 1]).permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert same_bits(expected, [x[0] for x in h0_persistence(columns, metric)])


def test_expanded_batches_and_expanded_coordinates_are_read_right() -> None:
    points = torch.from_numpy(gaussian(20, 6))
    expected = h0_persistence(points)
    batch = h0_persistence(points.expand(3, 20, 6))
    for k in range(3):
        assert same_bits(expected, (batch.deaths[k], batch.edges[k]))
    line = points[:, :1]
    assert same_bits(h0_persistence(line.expand(20, 8)), h0_persistence(line.repeat(1, 8)))


@pytest.mark.slow
def test_rows_more_than_two_billion_elements_apart_are_read_right() -> None:
    points = torch.tensor([[0.0, 3.0], [4.0, 0.0], [4.0, 1.0]], dtype=torch.float16)
    try:
        view = huge_stride(points)
    except RuntimeError:
        pytest.skip("needs eight gigabytes of address space")
    assert same_bits(h0_persistence(points), h0_persistence(view))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metric", METRICS)
def test_half_types_give_the_float32_barcode_of_the_widened_points(
    metric: str, dtype: torch.dtype
) -> None:
    for n, d in ((2, 1), (26, 33), (3, 700)):
        points = torch.from_numpy(gaussian(n, d, seed=4)).to(dtype)
        h0 = h0_persistence(points, metric)
        assert h0.deaths.dtype == torch.float32
        assert same_bits(h0, h0_persistence(points.float(), metric))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_arrays_give_numpy_arrays(dtype: type) -> None:
    points = gaussian(12, 5).astype(dtype)
    points.flags.writeable = False
    h0 = h0_persistence(points)
    assert isinstance(h0.deaths, np.ndarray)
    assert isinstance(h0.edges, np.ndarray)
    assert h0.deaths.dtype == (np.float64 if dtype is np.float64 else np.float32)
    assert h0.edges.dtype == np.int64
    same = h0_persistence(torch.from_numpy(points.copy()))
    assert (h0.deaths == same.deaths.numpy()).all()
    assert (h0.edges == same.edges.numpy()).all()
    for view, plain in (
        (points[::-1], points[::-1].copy()),
        (points[:, ::-2], points[:, ::-2].copy()),
        (np.asfortranarray(points), points),
        (np.broadcast_to(points, (3, 12, 5)), np.stack([points] * 3)),
    ):
        got, expected = h0_persistence(view), h0_persistence(plain)
        assert (got.deaths == expected.deaths).all()
        assert (got.edges == expected.edges).all()


def test_numpy_arrays_take_lengths_and_a_metric() -> None:
    points = np.stack([gaussian(9, 3, seed=s) for s in range(3)])
    lengths = np.array([9, 4, 0])
    h0 = h0_persistence(points, metric="manhattan", lengths=lengths)
    expected = h0_persistence(torch.from_numpy(points), "manhattan", torch.from_numpy(lengths))
    assert (h0.deaths == expected.deaths.numpy()).all()
    assert (h0.edges == expected.edges.numpy()).all()


def test_the_points_are_left_untouched() -> None:
    points = torch.from_numpy(gaussian(30, 20))
    before = points.clone()
    version = points._version
    for metric in METRICS:
        h0_persistence(points, metric)
    assert torch.equal(points, before)
    assert points._version == version
