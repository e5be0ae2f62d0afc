"""Wrong arguments: each is refused with words that say what was given and what was expected."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tsloss_fast import TSLoss, barcode, h0_persistence, h0_persistence_from_distances

POINTS = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0))
DEATHS = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
Call = Callable[[], object]

# What is called, the error, and the words that its message must have (regular expressions).
WRONG: dict[str, tuple[Call, type[Exception], list[str]]] = {
    "points without dimension": (
        lambda: h0_persistence(torch.tensor(1.0)),
        ValueError,
        [r"\(\)", r"N, ?D"],
    ),
    "points of one dimension": (
        lambda: h0_persistence(torch.zeros(5)),
        ValueError,
        [r"\(5,\)", r"N, ?D"],
    ),
    "an array of one dimension": (
        lambda: h0_persistence(np.zeros(5)),
        ValueError,
        [r"\(5,\)", r"N, ?D"],
    ),
    "int64 points": (
        lambda: h0_persistence(torch.zeros(4, 2, dtype=torch.int64)),
        TypeError,
        ["int64", "float32"],
    ),
    "int8 points": (
        lambda: h0_persistence(torch.zeros(4, 2, dtype=torch.int8)),
        TypeError,
        ["int8", "float32"],
    ),
    "boolean points": (
        lambda: h0_persistence(torch.zeros(4, 2, dtype=torch.bool)),
        TypeError,
        ["bool", "float32"],
    ),
    "complex points": (
        lambda: h0_persistence(torch.zeros(4, 2, dtype=torch.complex64)),
        TypeError,
        ["complex64", "float32"],
    ),
    "an integer array": (
        lambda: h0_persistence(np.zeros((4, 2), dtype=np.int32)),
        TypeError,
        ["int32", "float32"],
    ),
    "an array of objects": (
        lambda: h0_persistence(np.full((4, 2), None)),
        TypeError,
        ["object", "float32"],
    ),
    "an array of text": (
        lambda: h0_persistence(np.full((4, 2), "x")),
        TypeError,
        ["U1", "float32"],
    ),
    "an array of long doubles": (
        lambda: h0_persistence(np.zeros((4, 2), dtype=np.longdouble)),
        TypeError,
        ["float128|longdouble", "float64"],
    ),
    "a list": (lambda: h0_persistence([[0.0, 1.0]]), TypeError, ["list", "[Tt]ensor"]),
    "a tuple of tensors": (
        lambda: h0_persistence((POINTS, POINTS)),
        TypeError,
        ["tuple", "[Tt]ensor"],
    ),
    "nothing": (lambda: h0_persistence(None), TypeError, ["None", "[Tt]ensor"]),
    "text": (lambda: h0_persistence("points"), TypeError, ["str", "[Tt]ensor"]),
    "sparse points": (
        lambda: h0_persistence(torch.eye(3).to_sparse()),
        (TypeError, ValueError),
        ["sparse"],
    ),
    "an unknown metric": (
        lambda: h0_persistence(POINTS, metric="chebyshev"),
        ValueError,
        ["chebyshev", "euclidean", "sqeuclidean", "cosine", "manhattan"],
    ),
    "a metric in capitals": (
        lambda: h0_persistence(POINTS, metric="Euclidean"),
        ValueError,
        ["Euclidean", "euclidean"],
    ),
    "a metric that is no text": (
        lambda: h0_persistence(POINTS, metric=2),
        (TypeError, ValueError),
        ["2", "euclidean"],
    ),
    "no metric": (
        lambda: h0_persistence(POINTS, metric=None),
        (TypeError, ValueError),
        ["None", "euclidean"],
    ),
    "lengths of another shape": (
        lambda: h0_persistence(POINTS, lengths=torch.tensor([6, 6])),
        ValueError,
        ["lengths", r"\(2,\)", r"\(3,\)"],
    ),
    "lengths with a dimension too many": (
        lambda: h0_persistence(POINTS, lengths=torch.tensor([[6], [6], [6]])),
        ValueError,
        ["lengths", r"\(3, 1\)", r"\(3,\)"],
    ),
    "one length for a batch": (
        lambda: h0_persistence(POINTS, lengths=torch.tensor(6)),
        ValueError,
        ["lengths", r"\(\)", r"\(3,\)"],
    ),
    "lengths for one cloud": (
        lambda: h0_persistence(POINTS[0], lengths=torch.tensor([6])),
        ValueError,
        ["lengths", r"\(1,\)", r"\(\)"],
    ),
    "lengths that are no integers": (
        lambda: h0_persistence(POINTS, lengths=torch.tensor([6.0, 6.0, 6.0])),
        TypeError,
        ["lengths", "float32", "integer|int"],
    ),
    "boolean lengths": (
        lambda: h0_persistence(POINTS, lengths=torch.tensor([True, True, False])),
        TypeError,
        ["lengths", "bool", "integer|int"],
    ),
    "a negative length": (
        lambda: h0_persistence(POINTS, lengths=torch.tensor([6, -1, 6])),
        ValueError,
        ["lengths", "-1", r"\b1\b", "6"],
    ),
    "a length above N": (
        lambda: h0_persistence(POINTS, lengths=torch.tensor([6, 6, 7])),
        ValueError,
        ["lengths", "7", r"\b2\b", "6"],
    ),
    "a huge length": (
        lambda: h0_persistence(POINTS, lengths=torch.tensor([6, 2**62, 6])),
        ValueError,
        ["lengths", str(2**62), "6"],
    ),
    "lengths without values": (
        lambda: h0_persistence(POINTS, lengths=torch.zeros(3, dtype=torch.long, device="meta")),
        ValueError,
        ["lengths", "meta", "cpu"],
    ),
    "lengths of text": (
        lambda: h0_persistence(POINTS, lengths="666"),
        TypeError,
        ["lengths", "str"],
    ),
    "lengths above N for a matrix": (
        lambda: h0_persistence_from_distances(torch.zeros(2, 3, 3), torch.tensor([3, 4])),
        ValueError,
        ["lengths", "4", "3"],
    ),
    "a list for a matrix": (
        lambda: h0_persistence_from_distances([[0.0]]),
        TypeError,
        ["list", "[Tt]ensor"],
    ),
    "deaths in a list": (
        lambda: barcode.total_persistence([1.0, 2.0]),
        TypeError,
        ["deaths", "list", "[Tt]ensor"],
    ),
    "deaths that are integers": (
        lambda: barcode.variance(torch.tensor([1, 2])),
        TypeError,
        ["deaths", "int64", "float"],
    ),
    "deaths without dimension": (
        lambda: barcode.mean_death(torch.tensor(1.0)),
        ValueError,
        ["deaths", r"\(\)|scalar"],
    ),
    "an exponent of zero": (
        lambda: barcode.total_persistence(DEATHS, p=0.0),
        ValueError,
        [r"\bp\b", "0"],
    ),
    "an order below one": (
        lambda: barcode.wasserstein_distance(DEATHS, DEATHS, p=0.5),
        ValueError,
        [r"\bp\b", "0.5", "1"],
    ),
    "a negative rho": (
        lambda: barcode.redundancy(DEATHS, rho=-1.0),
        ValueError,
        ["rho", "-1"],
    ),
    "a base of one": (
        lambda: barcode.persistent_entropy(DEATHS, base=1.0),
        ValueError,
        ["base", "1"],
    ),
    "scales of two dimensions": (
        lambda: barcode.betti_curve(DEATHS, torch.zeros(2, 2)),
        ValueError,
        ["scales", r"\(2, 2\)"],
    ),
    "lengths of bars above the number of points": (
        lambda: barcode.mean_death(DEATHS, lengths=torch.tensor([3, 4])),
        ValueError,
        ["lengths", "4", "3"],
    ),
    "negative lengths of bars": (
        lambda: barcode.total_persistence(DEATHS, lengths=torch.tensor([3, -1])),
        ValueError,
        ["lengths", "-1"],
    ),
    "barcodes of batches that do not fit": (
        lambda: barcode.bottleneck_distance(torch.zeros(2, 3), torch.zeros(4, 3)),
        ValueError,
        [r"\(2, 3\)|\(2,\)", r"\(4, 3\)|\(4,\)"],
    ),
    "an unknown form": (
        lambda: TSLoss(form="smooth"),
        ValueError,
        ["smooth", "exact", "surrogate", "total"],
    ),
    "a negative weight": (
        lambda: TSLoss(connectivity=-1.0),
        ValueError,
        ["connectivity", "-1"],
    ),
    "a weight that is no number": (
        lambda: TSLoss(redundancy=float("nan")),
        ValueError,
        ["redundancy", "nan"],
    ),
    "a loss of unknown metric": (
        lambda: TSLoss(metric="chebyshev"),
        ValueError,
        ["chebyshev", "euclidean", "manhattan"],
    ),
    "rho of zero": (lambda: TSLoss(rho=0.0), ValueError, ["rho", "0"]),
    "a reference of zero": (
        lambda: TSLoss(compactness=1.0, reference=0.0),
        ValueError,
        ["reference", "0"],
    ),
    "a negative alpha": (
        lambda: TSLoss(form="surrogate", alpha=-1.0),
        ValueError,
        ["alpha", "-1"],
    ),
    "a surrogate of another metric": (
        lambda: TSLoss(form="surrogate", metric="cosine"),
        ValueError,
        ["surrogate", "cosine", "euclidean"],
    ),
    "a total of exponent zero": (lambda: TSLoss(form="total", p=0.0), ValueError, [r"\bp\b", "0"]),
    "compactness of the surrogate": (
        lambda: TSLoss(form="surrogate", compactness=1.0),
        ValueError,
        ["compactness", "surrogate"],
    ),
    "loops of the total form": (
        lambda: TSLoss(form="total", loops=1.0),
        ValueError,
        ["loops", "total"],
    ),
    "a loss of points of one dimension": (
        lambda: TSLoss()(torch.zeros(5)),
        ValueError,
        [r"\(5,\)", r"N, ?D"],
    ),
    "a surrogate of points of one dimension": (
        lambda: TSLoss(form="surrogate")(torch.zeros(5)),
        ValueError,
        [r"\(5,\)", r"N, ?D"],
    ),
    "a surrogate of integers": (
        lambda: TSLoss(form="surrogate")(torch.zeros(5, 2, dtype=torch.int64)),
        TypeError,
        ["int64", "float32"],
    ),
    "a surrogate with a length above N": (
        lambda: TSLoss(form="surrogate")(POINTS, torch.tensor([6, 6, 7])),
        ValueError,
        ["lengths", "7", "6"],
    ),
    "a loss of NaN": (
        lambda: TSLoss()(torch.full((4, 2), float("nan"))),
        ValueError,
        ["NaN", r"point 0\b"],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_refused_with_its_essential_words(what: str) -> None:
    call, error, words = WRONG[what]
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    missing = [word for word in words if not re.search(word, message)]
    assert not missing, f"{missing} missing in: {message}"
    assert "\n" not in message


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
