"""Calls that must be refused, the error, and what it must say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
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
