"""Calls that must be refused, the error, and what it must say."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tsloss_fast import (
    TSLoss,
    barcode,
    h0_persistence,
    h0_persistence_from_distances,
    h0_persistence_varlen,
)

POINTS = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0))
DEATHS = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
Call = Callable[[], object]


def nested(x: torch.Tensor, layout: torch.layout = torch.jagged) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        return torch.nested.as_nested_tensor(list(x), layout=layout)


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
        ["complex64", "float32", r"view_as_real\(points\)"],
    ),
    "complex distances": (
        lambda: h0_persistence_from_distances(torch.zeros(4, 4, dtype=torch.complex64)),
        TypeError,
        ["complex64", "absolute value"],
    ),
    "an embedding": (
        lambda: h0_persistence(torch.nn.Embedding(4, 2)),
        TypeError,
        ["Embedding", r"\.weight"],
    ),
    "an embedding in the loss": (
        lambda: TSLoss()(torch.nn.Embedding(4, 2)),
        TypeError,
        ["Embedding", r"\.weight"],
    ),
    "sparse distances": (
        lambda: h0_persistence_from_distances(torch.eye(3).to_sparse()),
        TypeError,
        ["sparse", "infinity", "check_finite=False"],
    ),
    "NaN in a ragged batch": (
        lambda: h0_persistence_varlen(torch.full((3, 2), torch.nan), [0, 3]),
        ValueError,
        ["NaN or infinity; remove it or pass check_finite=False"],
    ),
    "masked lengths": (
        lambda: h0_persistence(POINTS, lengths=np.ma.masked_array([6, 6, 6])),
        TypeError,
        ["lengths", "mask"],
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
        ["chebyshev", "euclidean", "sqeuclidean", "cosine", "h0_persistence_from_distances"],
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
    "a tensor and an array": (
        lambda: barcode.bottleneck_distance(DEATHS, DEATHS.numpy()),
        TypeError,
        ["Tensor", "ndarray", "from_numpy"],
    ),
    "scales in a tensor with deaths in an array": (
        lambda: barcode.betti_curve(DEATHS.numpy(), torch.zeros(2)),
        TypeError,
        ["scales", "tensor", "NumPy", r"scales\.numpy\(\)"],
    ),
    "deaths in a masked array": (
        lambda: barcode.mean_death(np.ma.masked_array([1.0, 2.0], mask=[0, 1])),
        TypeError,
        ["deaths", "mask", "lengths"],
    ),
    "a masked barcode of two": (
        lambda: barcode.wasserstein_distance(np.ones(2), np.ma.masked_array([1.0])),
        TypeError,
        [r"\bb\b", "mask"],
    ),
    "masked scales": (
        lambda: barcode.betti_curve(np.ones(2), np.ma.masked_array([1.0])),
        TypeError,
        ["scales", "mask"],
    ),
    "complex deaths": (
        lambda: barcode.variance(DEATHS.to(torch.complex64)),
        TypeError,
        ["deaths", "complex64", "float"],
    ),
    "an array of complex deaths": (
        lambda: barcode.variance(np.ones(2, complex)),
        TypeError,
        ["deaths", "complex128", "float"],
    ),
    "complex scales": (
        lambda: barcode.betti_curve(DEATHS, torch.tensor([1j])),
        TypeError,
        ["scales", "complex", "real"],
    ),
    "an array of complex scales": (
        lambda: barcode.betti_curve(DEATHS, np.array([1j])),
        TypeError,
        ["scales", "complex", "real"],
    ),
    "several scales for one": (
        lambda: barcode.num_components(DEATHS, torch.zeros(3)),
        ValueError,
        ["scale", r"\(3,\)", "betti_curve"],
    ),
    "a complex target": (
        lambda: barcode.total_deviation(DEATHS, 1j),
        TypeError,
        ["eta", "1j", "real"],
    ),
    "a target for each bar": (
        lambda: barcode.total_deviation(DEATHS, torch.ones(2)),
        ValueError,
        ["eta", r"\(2,\)", "one"],
    ),
    "a target that is NaN": (
        lambda: barcode.total_deviation(DEATHS, float("nan")),
        ValueError,
        ["eta", "nan", "finite"],
    ),
    "an infinite exponent": (
        lambda: barcode.total_persistence(DEATHS, float("inf")),
        ValueError,
        [r"\bp\b", "inf", "finite"],
    ),
    "an infinite order": (
        lambda: barcode.wasserstein_distance(DEATHS, DEATHS, float("inf")),
        ValueError,
        [r"\bp\b", "inf", "bottleneck_distance"],
    ),
    "a rho of minus one for both terms": (
        lambda: barcode.scale_free_terms(DEATHS, -1.0),
        ValueError,
        ["rho", "-1"],
    ),
    "a smoothing that is NaN": (
        lambda: barcode.num_components(DEATHS, 1.0, smoothing=float("nan")),
        ValueError,
        ["smoothing", "nan", "0"],
    ),
    "sparse deaths": (
        lambda: barcode.mean_death(DEATHS.to_sparse()),
        TypeError,
        ["deaths", "sparse", "dense"],
    ),
    "lengths of jagged deaths": (
        lambda: barcode.mean_death(nested(DEATHS), lengths=[3, 3]),
        ValueError,
        ["lengths", "nested", "leave them out"],
    ),
    "lengths of one jagged barcode of two": (
        lambda: barcode.bottleneck_distance(DEATHS, nested(DEATHS), lengths_b=[3, 3]),
        ValueError,
        ["lengths", "nested", r"\bb\b"],
    ),
    "nested deaths of another layout": (
        lambda: barcode.mean_death(nested(DEATHS, torch.strided)),
        TypeError,
        ["deaths", "strided", r"torch\.jagged"],
    ),
    "jagged edges for deaths": (
        lambda: barcode.mean_death(nested(DEATHS[..., None])),
        ValueError,
        ["deaths", r"\(B, m\*\)"],
    ),
    "jagged deaths with holes": (
        lambda: barcode.mean_death(
            torch.nested.narrow(DEATHS, 1, torch.tensor([0, 1]), 1, layout=torch.jagged)
        ),
        ValueError,
        ["deaths", "holes", "contiguous"],
    ),
    "jagged integers": (
        lambda: barcode.mean_death(nested(DEATHS.long())),
        TypeError,
        ["deaths", "int64", "float"],
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


def assert_refused(call: Call, error: type[Exception], words: list[str]) -> None:
    """The call raises the error, whose message is one line with all the words (patterns)."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    missing = [word for word in words if not re.search(word, message)]
    assert not missing, f"{missing} missing in: {message}"
    assert "\n" not in message
