"""Wrong arguments: each is refused with words that say what was given and what was expected."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from wrong_arguments import POINTS, WRONG, assert_refused

from tsloss_fast import barcode, h0_persistence, h0_persistence_from_distances


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_refused_with_its_essential_words(what: str) -> None:
    assert_refused(*WRONG[what])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_meta_device_gives_shapes_and_types(metric: str) -> None:
    points = torch.empty(4, 7, 3, device="meta", requires_grad=True)
    try:
        h0 = h0_persistence(points, metric)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        assert "meta" in str(error)  # noqa: PT017
        return
    assert h0.deaths.shape == (4, 6)
    assert h0.edges.shape == (4, 6, 2)
    assert h0.deaths.device.type == h0.edges.device.type == "meta"
    h0.deaths.sum().backward()
    assert points.grad.shape == points.shape


@pytest.mark.parametrize("lengths", [[6, 3, 0], (6, 3, 0), np.array([6, 3, 0])])
def test_lengths_in_other_containers_are_read_or_refused_by_type(lengths: object) -> None:
    expected = h0_persistence(POINTS, lengths=torch.tensor([6, 3, 0]))
    try:
        h0 = h0_persistence(POINTS, lengths=lengths)
    except TypeError as error:
        assert "lengths" in str(error)  # noqa: PT017
    else:
        assert torch.equal(h0.deaths, expected.deaths)
        assert torch.equal(h0.edges, expected.edges)


def test_arrays_of_foreign_byte_order_are_read_or_refused_by_type() -> None:
    points = np.random.default_rng(0).standard_normal((6, 2))
    foreign = points.astype(points.dtype.newbyteorder())
    try:
        deaths = h0_persistence(foreign).deaths
    except (TypeError, ValueError) as error:
        assert "byte order" in str(error)  # noqa: PT017
    else:
        np.testing.assert_array_equal(deaths, h0_persistence(points).deaths)


def test_a_parameter_and_a_read_only_array_are_taken_without_a_warning() -> None:
    frozen = POINTS[0].numpy().copy()
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert h0_persistence(torch.nn.Parameter(POINTS)).deaths.requires_grad
        h0_persistence(frozen)
        h0_persistence_from_distances(np.zeros((3, 3)))


def test_a_refused_call_leaves_nothing_behind() -> None:
    expected = h0_persistence(POINTS)
    for call, error, _ in WRONG.values():
        with pytest.raises(error):
            call()
    again = h0_persistence(POINTS)
    assert torch.equal(again.deaths, expected.deaths)
    assert torch.equal(again.edges, expected.edges)


@pytest.mark.parametrize("seed", range(40))
def test_random_arguments_give_a_barcode_or_a_clear_error(seed: int) -> None:
    r = np.random.default_rng(seed)
    dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.bool]
    for _ in range(25):
        shape = tuple(r.integers(0, 5, r.integers(0, 5)).tolist())
        points = torch.from_numpy(r.standard_normal(shape)).to(dtypes[r.integers(len(dtypes))])
        lengths = None
        if r.random() < 0.5:
            of = shape[: max(len(shape) - 2, 0)] if r.random() < 0.7 else shape
            lengths = torch.from_numpy(r.integers(-1, 6, of))
        metric = ["euclidean", "sqeuclidean", "cosine", "manhattan", "minkowski"][r.integers(5)]
        batch, n = shape[:-2], shape[-2] if len(shape) > 1 else 0
        right = (
            len(shape) > 1
            and points.dtype.is_floating_point
            and metric != "minkowski"
            and (lengths is None or lengths.shape == batch)
            and (lengths is None or bool(((lengths >= 0) & (lengths <= n)).all()))
        )
        if right:
            h0 = h0_persistence(points, metric, lengths)
            assert h0.deaths.shape == (*batch, max(n - 1, 0))
            assert h0.edges.shape == (*batch, max(n - 1, 0), 2)
            assert h0.deaths.isfinite().all()
        else:
            with pytest.raises((ValueError, TypeError)) as caught:
                h0_persistence(points, metric, lengths)
            assert len(str(caught.value)) > 30


@pytest.mark.parametrize("distance", [barcode.bottleneck_distance, barcode.wasserstein_distance])
def test_a_list_is_no_barcode(distance: Callable[..., torch.Tensor]) -> None:
    for pair in (([1.0, 2.0], torch.ones(2)), (torch.ones(2), [1.0, 2.0])):
        with pytest.raises(TypeError, match=r"expected a torch\.Tensor or .*, got list"):
            distance(*pair)
